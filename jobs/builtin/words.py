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
from builtin.grammar import FOLDER, read_table
from builtin.student import ROLES, SPECIAL, finish_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

__all__ = ["Words", "common_words", "make_words", "read_words", "save_words"]

WIDTH = 256
LAYERS, CARRIER = (8, 14, 20), "The customer said:"
"""Of the teacher: the first tells spellings, the last meanings of words in several tokens."""
_UNIT = re.compile(r"Ġ?[A-Z]?[a-z]+")
_PIECE = re.compile(r"Ġ?[A-Z]?[a-z]*|'[a-z]+|Ġ?[^\w\s]{1,4}")
_WORD = re.compile(r"Ġ[a-z]{3,}")
_OFTEN, _FIRST, _PIECES = 8, 500, 480
"""How often 15,000 messages need a word that is kept as it stands (case, no space before it); words
with a capital besides, the frequent ones; tokens for all else: slips, names, numbers' letters."""
_RANDOM, _RMS, _EVEN, _NEIGHBOURS = 0.3, 0.06, 0.5, 8

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
        """[vocab_size, 8]: of a lower-case word the nearest ones, of all else itself."""
        found = torch.arange(len(self.vectors))[:, None].repeat(1, _NEIGHBOURS)
        vocabulary = self.tokenizer.get_vocab()
        words = {i for t, i in vocabulary.items() if _WORD.fullmatch(t) and t[1:] not in _TELLING}
        ids = torch.tensor(sorted(words))
        unit = torch.nn.functional.normalize(self.vectors[ids].float(), dim=-1)
        near = (unit @ unit.T).fill_diagonal_(-1).topk(_NEIGHBOURS).indices
        found[ids] = ids[near]
        return found


def choose_vocabulary(
    pieces: dict[str, Any], texts: list[str], words: Iterable[str], size: int
) -> tuple[list[str], list[str]]:
    """Whole words, those that `texts` need and then `words` in their order, each one token whether
    the teacher has it or not; and tokens of the teacher's that the rest is put together from."""
    teacher = Tokenizer.from_str(json.dumps(pieces))
    split = teacher.pre_tokenizer.pre_tokenize_str
    units = Counter(unit for text in texts for unit, _ in split(text))
    vocabulary = pieces["model"]["vocab"]
    ordinary = [word for word in dict.fromkeys(words) if not _named(word, vocabulary)]
    known = set(ordinary)
    whole = [
        unit
        for unit, count in units.most_common()
        if count >= _OFTEN and _UNIT.fullmatch(unit) and _bare(unit) in known
    ]
    first = [form for word in ordinary for form in (word.capitalize(), f"Ġ{word.capitalize()}")]
    first = sorted((form for form in first if form in vocabulary), key=vocabulary.__getitem__)
    whole = list(dict.fromkeys([*whole, *first[:_FIRST], *(f"Ġ{word}" for word in ordinary)]))
    kept = set(whole[:size])
    rest = {unit: count for unit, count in units.items() if unit not in kept}
    parts = dict.fromkeys(_pieces(pieces, teacher, rest))
    return [unit for unit in whole if unit not in parts][: size - len(parts)], list(parts)


def _bare(unit: str) -> str:
    return unit.removeprefix("Ġ").lower()


def _named(word: str, vocabulary: dict[str, int]) -> bool:
    """Whether the teacher met the word rather with a capital: `London`, `Anna`."""
    last = len(vocabulary)
    return vocabulary.get(f"Ġ{word.capitalize()}", last) < vocabulary.get(f"Ġ{word}", last)


def _pieces(pieces: dict[str, Any], teacher: Tokenizer, rest: dict[str, int]) -> list[str]:
    """Single bytes, and the tokens that `rest` needs most with those that they are merged from."""
    parents = {}
    for merge in pieces["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        parents.setdefault(left + right, (left, right))
    needed: Counter[str] = Counter()
    for unit, count in rest.items():
        for token in teacher.model.tokenize(unit):
            needed[token.value] += count
    kept = {token: None for token in sorted(pieces["model"]["vocab"]) if len(token) == 1}
    most = len(kept) + _PIECES
    for token, _ in needed.most_common():
        more = _ancestors(token, parents)
        if _PIECE.fullmatch(token) and len(kept) + len(more) <= most:
            kept.update(dict.fromkeys(more))
    return list(kept)


def _ancestors(token: str, parents: dict[str, tuple[str, str]]) -> list[str]:
    if token not in parents:
        return [token]
    left, right = parents[token]
    return [*_ancestors(left, parents), *_ancestors(right, parents), token]


def make_words(
    teacher: Path, texts: list[str], words: Iterable[str], size: int, seed: int
) -> Words:
    """`teacher`: SmolLM2's GGUF file. `size`: tokens, the special ones included."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    named = {"gguf_file": teacher.name}
    spoken = AutoTokenizer.from_pretrained(teacher.parent, **named).backend_tokenizer
    pieces = json.loads(spoken.to_str())
    whole, parts = choose_vocabulary(pieces, texts, words, size - len(SPECIAL) - len(ROLES))
    spelled = [[t.id for t in spoken.model.tokenize(token)] for token in [*whole, *parts]]
    model = AutoModelForCausalLM.from_pretrained(teacher.parent, dtype=torch.float32, **named)
    model.model.layers = model.model.layers[: LAYERS[-1]]
    carrier = spoken.encode(CARRIER, add_special_tokens=False).ids
    vectors = _reduced(_seen(model.model, carrier, spelled), seed)
    return Words(finish_tokenizer(pieces, whole, parts), vectors)


@torch.no_grad()
def _seen(model: Any, carrier: list[int], spelled: list[list[int]]) -> torch.Tensor:
    """[len(spelled), kinds, teacher's width]: what the teacher makes of each word, spelled in its
    tokens, after a few words."""
    before = model(input_ids=torch.tensor([carrier]), use_cache=True).past_key_values
    found: dict[int, torch.Tensor] = {}
    for length in sorted({len(ids) for ids in spelled}):
        alike = [at for at, ids in enumerate(spelled) if len(ids) == length]
        for part in torch.tensor(alike).split(250):
            ids = torch.tensor([spelled[at] for at in part.tolist()])
            cache = deepcopy(before)
            cache.batch_repeat_interleave(len(part))
            states = model(
                input_ids=ids, past_key_values=cache, output_hidden_states=True
            ).hidden_states
            kinds = torch.stack([states[layer][:, -1] for layer in LAYERS], 1)
            found.update(zip(part.tolist(), kinds, strict=True))
    return torch.stack([found[at] for at in range(len(spelled))])


def _reduced(seen: torch.Tensor, seed: int) -> torch.Tensor:
    """[num_tokens, kinds, teacher's width] to [roles + num_tokens, WIDTH]: principal directions,
    and some noise that tells equals apart."""
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
    """The words of the phrases, then English ones of the package wordfreq, the frequent first."""
    from wordfreq import top_n_list

    phrases = "\n".join(file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.txt")))
    ours = dict.fromkeys(re.findall(r"(?<![A-Za-z'<])[a-z]{2,}(?![A-Za-z'>])", phrases))
    frequent = [w for w in top_n_list("en", 3 * count) if re.fullmatch("[a-z]{2,}", w)]
    return [*ours, *frequent[:count]]
