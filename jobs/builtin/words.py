"""The model's vocabulary and word vectors: a part of SmolLM2-135M-Instruct's (Apache-2.0).

A word that the generator never writes still lies beside its like: `reimburse` beside `refund`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from builtin.grammar import read_table
from builtin.student import ROLES, SPECIAL, finish_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

__all__ = ["Words", "common_words", "make_words", "read_words", "save_words"]

WIDTH = 256
LAYERS, CARRIER = 8, "The customer said:"
_PLAIN = re.compile(r"Ġ?[A-Z]?[a-z]*|Ġ?[^\w\s]{1,4}")
_WORD = re.compile(r"Ġ[a-z]{3,}")
_OFTEN = 10
"""In 15,000 messages: slips of the pen are no words."""
_RANDOM, _RMS, _EVEN, _NEIGHBOURS = 0.3, 0.06, 0.5, 6

_TELLING = frozenset(read_table("telling")["any"])
"""Words that are not swapped for near ones: the label or a field hangs on them."""


class Words:
    """A tokenizer and `vectors` [vocab_size, WIDTH]."""

    def __init__(self, tokenizer: Tokenizer, vectors: torch.Tensor) -> None:
        self.tokenizer, self.vectors = tokenizer, vectors

    def names(self) -> list[str]:
        """Whole lower-case words, without their space."""
        return sorted(t[1:] for t in self.tokenizer.get_vocab() if _WORD.fullmatch(t))

    def neighbours(self) -> torch.Tensor:
        """[vocab_size, 6]: of a lower-case word the nearest ones, of all else itself."""
        found = torch.arange(len(self.vectors))[:, None].repeat(1, _NEIGHBOURS)
        vocabulary = self.tokenizer.get_vocab()
        words = {i for t, i in vocabulary.items() if _WORD.fullmatch(t) and t[1:] not in _TELLING}
        ids = torch.tensor(sorted(words))
        unit = torch.nn.functional.normalize(self.vectors[ids].float(), dim=-1)
        near = (unit @ unit.T).fill_diagonal_(-1).topk(_NEIGHBOURS).indices
        found[ids] = ids[near]
        return found


def choose_vocabulary(
    pieces: dict[str, Any], texts: Iterable[str], words: Iterable[str], size: int
) -> list[str]:
    """Tokens of the teacher's vocabulary: those that `texts` need most, then common `words`."""
    model = pieces["model"]
    parents = {}
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        parents.setdefault(left + right, (left, right))
    teacher = Tokenizer.from_str(json.dumps(pieces))
    counts = Counter(
        t for e in teacher.encode_batch(list(texts), add_special_tokens=False) for t in e.tokens
    )
    wanted = [token for token, count in counts.most_common() if count >= _OFTEN]
    wanted += [f"Ġ{word}" for word in words]
    kept: dict[str, None] = {t: None for t in sorted(model["vocab"]) if len(t) == 1}
    for token in wanted:
        if token in model["vocab"] and _PLAIN.fullmatch(token):
            needed = _ancestors(token, parents)
            if len(kept) + len(needed) > size:
                break
            kept.update(dict.fromkeys(needed))
    return list(kept)


def _ancestors(token: str, parents: dict[str, tuple[str, str]]) -> list[str]:
    if token not in parents:
        return [token]
    left, right = parents[token]
    return [*_ancestors(left, parents), *_ancestors(right, parents), token]


def make_words(
    teacher: Path, texts: Iterable[str], words: Iterable[str], size: int, seed: int
) -> Words:
    """`teacher`: SmolLM2's GGUF file. `size`: tokens, the special ones included."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    named = {"gguf_file": teacher.name}
    spoken = AutoTokenizer.from_pretrained(teacher.parent, **named).backend_tokenizer
    pieces = json.loads(spoken.to_str())
    kept = choose_vocabulary(pieces, texts, words, size - len(SPECIAL) - len(ROLES))
    ids = [pieces["model"]["vocab"][token] for token in kept]
    model = AutoModelForCausalLM.from_pretrained(teacher.parent, dtype=torch.float32, **named)
    model.model.layers = model.model.layers[:LAYERS]
    vectors = _vectors(model.model, spoken.encode(CARRIER, add_special_tokens=False).ids, ids, seed)
    return Words(finish_tokenizer(pieces, kept), vectors)


@torch.no_grad()
def _vectors(model: Any, carrier: list[int], ids: list[int], seed: int) -> torch.Tensor:
    """[len(SPECIAL + ROLES) + len(ids), WIDTH]: principal directions of what the teacher makes of
    each token alone and after a few words, and some noise that tells equals apart."""
    seen: list[torch.Tensor] = []
    before = model(input_ids=torch.tensor([carrier]), use_cache=True).past_key_values
    for part in torch.tensor(ids).split(250):
        cache = deepcopy(before)
        cache.batch_repeat_interleave(len(part))
        states = model(
            input_ids=part[:, None], past_key_values=cache, output_hidden_states=True
        ).hidden_states
        kinds = (states[0][:, -1], states[LAYERS // 2][:, -1], states[LAYERS][:, -1])
        seen.append(torch.stack(kinds, 1))
    return _reduced(torch.cat(seen), seed)


def _reduced(seen: torch.Tensor, seed: int) -> torch.Tensor:
    """[num_tokens, kinds, teacher's width] to [roles + num_tokens, WIDTH]."""
    seen = seen - seen.mean(0)
    seen = torch.nn.functional.normalize(seen, dim=-1).flatten(1)
    seen = seen - seen.mean(0)
    squares, directions = torch.linalg.eigh(seen.T @ seen)
    values = squares[-WIDTH:].clamp(min=1e-6).sqrt()
    vectors = seen @ directions[:, -WIDTH:] / values**_EVEN
    noise = torch.Generator().manual_seed(seed)
    random = torch.randn(len(vectors) + len(SPECIAL) + len(ROLES), WIDTH, generator=noise)
    vectors = torch.cat([torch.zeros(len(SPECIAL) + len(ROLES), WIDTH), _level(vectors)])
    return _level(vectors + _RANDOM * random) * _RMS


def _level(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.pow(2).mean(-1, keepdim=True).sqrt().clamp(min=1e-6)


def save_words(words: Words, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words.tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"model.embed_tokens.weight": words.vectors.half()}, folder / "model.safetensors")


def read_words(folder: Path) -> Words:
    """Those of `save_words`, or of a trained model's folder."""
    weights = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Words(tokenizer, weights["model.embed_tokens.weight"].float())


def common_words(count: int) -> list[str]:
    """English words, the most frequent first, of the package wordfreq."""
    from wordfreq import top_n_list

    found = [w for w in top_n_list("en", 3 * count) if w.isascii() and w.isalpha()][:count]
    return found
