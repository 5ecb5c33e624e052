"""A file's vocabulary: texts, types and scores of its tokens, and what is put around a text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError
from batchgen.gguf.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from batchgen.gguf.tokenizer.special import CONTROL_TEXTS, named_id, not_special

__all__ = ["Kind", "Vocabulary", "read_vocabulary", "special_token_texts"]

_MODELS = ("gpt2", "llama")
_FOLDER = "Name the model's transformers folder or hub id instead of the .gguf file."
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


class Kind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`pre`: how byte-level BPE cuts texts. `scores`: of SentencePiece's tokens, higher is earlier.

    `bos`, `eos`: ids that are put around plain text; None = none is. `space_first`: whether a text,
    and what follows a special token, begins with a space. `strips`: ids of special tokens that take
    the white space behind them along.
    """

    path: Path
    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...]
    bos: int | None
    eos: int | None
    unknown: int | None
    space_first: bool
    strips: frozenset[int]

    def of_kind(self, *kinds: Kind) -> list[int]:
        """Ids of tokens of these types."""
        return [index for index, kind in enumerate(self.kinds) if kind in kinds]


def special_token_texts(metadata: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, ... -> text: what chat templates read by name."""
    ids = {name: named_id(metadata, key) for name, key in _NAMED.items()}
    tokens = metadata.get("tokenizer.ggml.tokens")
    return {name: tokens[one] for name, one in ids.items() if one is not None and tokens}


def read_vocabulary(metadata: dict[str, Any], path: Path) -> Vocabulary:
    """Raises ModelRefusedError for a kind of tokenizer that is not served, and for lists that do
    not fit each other."""
    model, pre = _kind(metadata, path)
    tokens = _tokens(metadata, path)
    kinds = _kinds(metadata, tokens, path)
    adds_bos = model == "llama" or (model == "gpt2" and PRE_TOKENIZERS[pre].adds_bos)
    return Vocabulary(
        path=path,
        model=model,
        pre=pre,
        tokens=tokens,
        kinds=kinds,
        scores=_scores(metadata, len(tokens), path) if model == "llama" else (),
        bos=_around(metadata, "bos", adds_bos, path),
        eos=_around(metadata, "eos", False, path),
        unknown=named_id(metadata, "unknown"),
        space_first=_flag(metadata, "add_space_prefix", model == "llama", path),
        strips=_strips(metadata, tokens, kinds),
    )


def _kind(metadata: dict[str, Any], path: Path) -> tuple[str, str]:
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if model not in _MODELS:
        known = "gpt2 (byte-level BPE) and llama (SentencePiece)"
        raise _refused(path, f"its tokenizer.ggml.model {model!r} is not served; served: {known}")
    if model == "gpt2" and str(pre) not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise _refused(path, f"its pre-tokenizer {pre!r} is unknown; known: {known}.")
    return str(model), str(pre)


def _tokens(metadata: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Texts; one that is empty has a name of its own, as in llama.cpp."""
    listed = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise _refused(path, "its tokenizer.ggml.tokens is no list of texts")
    tokens = tuple(text or f"[EMPTY_{index}]" for index, text in enumerate(listed))
    if len(set(tokens)) != len(tokens):
        twice = next(text for text, number in Counter(tokens).items() if number > 1)
        raise _refused(path, f"its vocabulary holds the token {twice!r} twice")
    return tokens


def _kinds(metadata: dict[str, Any], tokens: tuple[str, ...], path: Path) -> tuple[int, ...]:
    listed = metadata.get("tokenizer.ggml.token_type")
    if listed is None:
        listed = [Kind.NORMAL] * len(tokens)
    if not isinstance(listed, list) or len(listed) != len(tokens):
        raise _refused(path, f"its tokenizer.ggml.token_type is no list of {len(tokens)} types")
    kinds = list(listed)
    apart = {"<|end|>": Kind.USER_DEFINED, "</s>": Kind.NORMAL}
    others = not_special(text for text in tokens if text in CONTROL_TEXTS)
    for index, text in enumerate(tokens):
        if text in CONTROL_TEXTS:
            kinds[index] = apart[text] if text in others else Kind.CONTROL
    return tuple(kinds)


def _scores(metadata: dict[str, Any], size: int, path: Path) -> tuple[float, ...]:
    listed = metadata.get("tokenizer.ggml.scores", [0.0] * size)
    numbers = isinstance(listed, list) and all(isinstance(one, int | float) for one in listed)
    if not numbers or len(listed) != size:
        raise _refused(path, f"its tokenizer.ggml.scores is no list of {size} numbers")
    return tuple(float(one) for one in listed)


def _around(metadata: dict[str, Any], name: str, default: bool, path: Path) -> int | None:
    if not _flag(metadata, f"add_{name}_token", default, path):
        return None
    found = named_id(metadata, name)
    if found is None:
        raise _refused(
            path,
            f"its tokenizer adds a {name.upper()}, and tokenizer.ggml.{name}_token_id names none",
        )
    return found


def _flag(metadata: dict[str, Any], name: str, default: bool, path: Path) -> bool:
    value = metadata.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(value, bool):
        raise _refused(path, f"its tokenizer.ggml.{name} is {value!r}, not true or false")
    return value


def _strips(
    metadata: dict[str, Any], tokens: tuple[str, ...], kinds: tuple[int, ...]
) -> frozenset[int]:
    """Phi 3's special tokens, known by the model's name, take the space behind them along."""
    name = str(metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    special = (Kind.CONTROL, Kind.USER_DEFINED, Kind.UNKNOWN)
    plain = ("<unk>", "<s>", "<|endoftext|>")
    pairs = enumerate(zip(tokens, kinds, strict=True))
    return frozenset(
        index
        for index, (text, kind) in pairs
        if text not in plain and (kind in special or text == "</s>")
    )


def _refused(path: Path, what: str) -> ModelRefusedError:
    return ModelRefusedError(f"{path}: {what}", _FOLDER)
