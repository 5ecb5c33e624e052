"""A file that somebody writes to while it is read: rows that are added behind those that were read
change none of them; where it was written anew, an answer would be of rows that no file ever had."""

from __future__ import annotations

from itertools import islice
from typing import Any

from batchgen.errors import InputUnreadableError
from batchgen.job.input.source import Source, SourceKind
from batchgen.job.input_digest import InputDigest

__all__ = ["Stamp", "refuse_rewritten", "stamp_of"]

Stamp = tuple[int, int, int]
"""Which file it is, its size and time. A file that was put in its place is another one: whoever has
the old one open reads that to its end."""


def stamp_of(source: Source) -> Stamp | None:
    """None for what is no single file of this machine, or gone; a store looks by itself."""
    if source.remote is not None or source.kind is SourceKind.HUB:
        return None
    try:
        stat = source.path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def refuse_rewritten(
    source: Source, opened: Stamp | None, rows: Any, read: InputDigest, before: tuple[int, int]
) -> None:
    """Where the file was written to since it was `opened`: read its rows once more. `read` is all
    of the input so far, which had so many rows and that sum `before` the source's own.

    Raises InputUnreadableError where they are others.
    """
    now, (first, sum_before) = stamp_of(source), before
    if opened is None or now is None or now == opened or now[0] != opened[0]:
        return
    again = InputDigest(first)
    for _, payload in islice(rows, read.rows - first):
        again.add(rows.digest_bytes(payload))
    if (again.rows, again.row_sum) != (read.rows, read.row_sum - sum_before):
        raise InputUnreadableError(
            f"the input {source.name} was written to while it was read, and rows changed",
            "run the same command again once it is whole: rows that are still the same stay done",
        )
