"""Rows of an output on a terminal: one under the other, or two outputs side by side."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

__all__ = ["USUAL_COLUMNS", "row_lines", "side_by_side"]

USUAL_COLUMNS = ("status", "prompt", "completion", "reasoning", "finish_reason", "error_code",
          "error_message", "prompt_tokens", "completion_tokens", "latency_s")  # fmt: skip
"""Those of every output that a person asks for first."""
Row = dict[str, Any]


def row_lines(row: Row) -> Iterator[str]:
    """`row 5 (id "a")`, then a line or more a column that has a value."""
    yield _head(row)
    width = max(shutil.get_terminal_size().columns - 4, 40)
    for name, value in _values(row).items():
        text = f"{value:g}" if isinstance(value, float) else str(value)
        yield from _indented(name, text, width)


def side_by_side(row: Row, other: Row | None) -> Iterator[str]:
    """The same of two outputs in two columns; `=` marks values that are equal."""
    yield _head(row) + ("" if other is not None else ": not in the other output")
    half = max((shutil.get_terminal_size().columns - 7) // 2, 24)
    theirs = {} if other is None else _values(other)
    mine = _values(row)
    for name in dict.fromkeys([*mine, *theirs]):
        left, right = mine.get(name), theirs.get(name)
        if left == right:
            short = textwrap.shorten(str(left), 2 * half - len(name), placeholder="...")
            yield f"  = {name}: {short}"
            continue
        yield f"  {name}"
        texts = (textwrap.wrap(str("" if one is None else one), half) for one in (left, right))
        for one, two in zip_longest(*texts, fillvalue=""):
            yield f"    {one:<{half}} | {two}".rstrip()


def _head(row: Row) -> str:
    sample = f", sample {row['sample']}" if row["sample"] else ""
    return f"row {row['index']} (id {row['id']!r}{sample})"


def _values(row: Row) -> Row:
    return {
        name: value
        for name, value in row.items()
        if name not in ("id", "index", "sample") and value is not None
    }


def _indented(name: str, text: str, width: int) -> Iterator[str]:
    if len(name) + len(text) + 2 <= width and "\n" not in text:
        yield f"  {name}: {text}"
        return
    yield f"  {name}:"
    for line in text.splitlines():
        yield from (f"    {part}" for part in textwrap.wrap(line, width) or [""])
