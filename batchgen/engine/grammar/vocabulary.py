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

__all__ = ["as_of_completions"]

_MODEL = '"model":'
"""Comes last, and holds the tokens: up to 30 MB that are not parsed. In a text it would be escaped.
"""
_SPACE = " "


def as_of_completions(vocabulary: str, vocab_size: int) -> str:
    """What `tokenizers.Tokenizer.to_str` gave, without what changes a text before its tokens, and
    without added tokens past `vocab_size`, which the model never writes."""
    head, model, tokens = vocabulary.partition(_MODEL)
    try:
        parts: dict[str, Any] = json.loads(head.rstrip().removesuffix(",") + "}")
    except ValueError:  # llguidance says what it thinks of it
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
    return f"{json.dumps({**parts, **wanted})[:-1]}, {model}{tokens}"


def _spaces_alone(part: Any) -> Any:
    """A normalizer less all but what SentencePiece writes for spaces."""
    if not isinstance(part, Mapping):
        return None
    if part.get("type") == "Sequence":
        kept = [one for one in map(_spaces_alone, part.get("normalizers") or ()) if one is not None]
        return {**part, "normalizers": kept} if kept else None
    of_spaces = part.get("type") == "Replace" and part.get("pattern") == {"String": _SPACE}
    return part if of_spaces or part.get("type") == "Prepend" else None


def _without_prefix(part: Any) -> Any:
    """A pre-tokenizer of bytes that puts no space before the text."""
    if not isinstance(part, Mapping):
        return part
    if part.get("type") == "Sequence":
        inner = [_without_prefix(one) for one in part.get("pretokenizers") or ()]
        return {**part, "pretokenizers": inner}
    return {**part, "add_prefix_space": False} if part.get("type") == "ByteLevel" else part


def _as_sequence(part: Any) -> Any:
    """A `Metaspace` decoder as the steps that it stands for, which llguidance knows."""
    if not isinstance(part, Mapping) or part.get("type") != "Metaspace":
        return part
    mark = {"String": part.get("replacement", "\N{LOWER ONE EIGHTH BLOCK}")}
    steps = [{"type": "Replace", "pattern": mark, "content": _SPACE}, {"type": "ByteFallback"}]
    return {"type": "Sequence", "decoders": [*steps, {"type": "Fuse"}]}
