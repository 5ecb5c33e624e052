"""A tokenizer.json as llguidance is given it: what a text's tokens are, and nothing of how prompts
are prepared.

Where a grammar leaves one text alone (a key, the rest of a choice), llguidance asks the tokenizer
for its tokens and allows the first of them. A tokenizer that composes letters, makes them small or
puts a space in front tokenises another text, and then no token is left. Completions are not
prepared in that way, so what does it is taken out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["as_of_completions", "head_of"]

_MODEL = '"model":'
"""Comes last, and holds the tokens: up to 30 MB that are not parsed. In a text it would be escaped.
"""
_SPACE = " "
_NO_PREFIX: dict[str, dict[str, Any]] = {
    "ByteLevel": {"add_prefix_space": False},
    "Metaspace": {"prepend_scheme": "never"},
}


def as_of_completions(vocabulary: str, vocab_size: int) -> str:
    """What `tokenizers.Tokenizer.to_str` gave, without what changes a text before its tokens, and
    without added tokens past `vocab_size`, which the model never writes."""
    parts = head_of(vocabulary)
    if parts is None:  # llguidance says what it thinks of it
        return vocabulary
    added = parts.get("added_tokens") or []
    wanted = {
        "added_tokens": [token for token in added if token["id"] < vocab_size],
        "normalizer": _spaces_alone(parts.get("normalizer")),
        "pre_tokenizer": _without_prefix(parts.get("pre_tokenizer")),
        "decoder": _as_sequence(parts.get("decoder")),
    }
    if all(parts.get(name) == part for name, part in wanted.items()):
        return vocabulary
    model = vocabulary[vocabulary.index(_MODEL) :]
    return f"{json.dumps({**parts, **wanted})[:-1]}, {model}"


def head_of(vocabulary: str) -> dict[str, Any] | None:
    """All but the model; None for what is no tokenizer.json."""
    head, _, _ = vocabulary.partition(_MODEL)
    try:
        found = json.loads(head.rstrip().removesuffix(",") + "}")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _spaces_alone(part: Any) -> Any:
    """A normalizer less all but what SentencePiece writes for spaces."""
    if not isinstance(part, Mapping):
        return None
    if part.get("type") == "Sequence":
        kept = [one for one in map(_spaces_alone, part.get("normalizers") or ()) if one is not None]
        return {**part, "normalizers": kept} if kept else None
    of_spaces = part.get("type") == "Replace" and part.get("pattern") == {"String": _SPACE}
    return part if of_spaces else None


def _without_prefix(part: Any) -> Any:
    """A pre-tokenizer that puts no space before the text."""
    if not isinstance(part, Mapping):
        return part
    if part.get("type") == "Sequence":
        inner = [_without_prefix(one) for one in part.get("pretokenizers") or ()]
        return {**part, "pretokenizers": inner}
    return {**part, **_NO_PREFIX.get(str(part.get("type")), {})}


def _as_sequence(part: Any) -> Any:
    """A `Metaspace` decoder as the steps that it stands for, which llguidance knows."""
    if not isinstance(part, Mapping) or part.get("type") != "Metaspace":
        return part
    mark = {"String": part.get("replacement", "\N{LOWER ONE EIGHTH BLOCK}")}
    steps = [{"type": "Replace", "pattern": mark, "content": _SPACE}, {"type": "ByteFallback"}]
    return {"type": "Sequence", "decoders": [*steps, {"type": "Fuse"}]}
