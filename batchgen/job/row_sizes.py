"""About how many bytes rows take, for whoever bounds how many of them wait. Standard library only.

What a row carries to the output may be far more than its prompt: a page's text, or the likeliest
tokens in each place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from batchgen.job.rows import OutputRow

__all__ = ["BYTES_PER_TOKEN", "carried_size", "size_of_output"]

BYTES_PER_TOKEN = 40
"""Of a token that waits in Python: its id, its place in a list, and its share of the text."""
_BYTES_PER_VALUE = 8
_BYTES_PER_LIKELY_TOKEN = 40


def carried_size(values: Iterable[Any]) -> int:
    """Of columns' values, nested ones too."""
    return sum(len(v) if type(v) is str else _size(v) for v in values)


def size_of_output(row: OutputRow) -> int:
    """Of what the output has for the row."""
    texts = row.id, row.prompt, row.completion, row.reasoning, row.tool_calls
    size = sum(map(len, filter(None, texts)))
    if row.kept:
        size += carried_size(row.kept.values())
    per_token: tuple[Sized | None, ...] = (row.token_ids, row.logprobs, row.prompt_logprobs)
    size += _BYTES_PER_VALUE * sum(map(len, filter(None, per_token)))
    for likely in (row.top_logprobs, row.prompt_top_logprobs):
        if likely:
            size += _BYTES_PER_LIKELY_TOKEN * len(likely) * len(likely[-1])
    return size


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return carried_size(value) + carried_size(value.values())
    if isinstance(value, list | tuple):
        return carried_size(value)
    return _BYTES_PER_VALUE
