"""Rows that overlap too much to be merged in memory, put on disk by ranges of their index.

One pass sorts a few megabytes at a time and writes them to the ranges that they belong to; each
range is then small enough to be sorted in memory. Rows are not packed, and are mapped instead of
read, once, moments later: to pack text of any variety costs more than the pages that hold it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from batchgen.job.output.merge_rows import Ints, SortedRows
from batchgen.job.stores.places import Place

__all__ = ["Piece", "RangeFile", "Span", "bounds_of", "spill"]

_MAX_RANGES = 64
"""Files written at once."""


@dataclass(frozen=True, slots=True)
class Span:
    """Sorted rows: their lowest and highest index, their bytes once read, and their `rank`, the
    place in the order of commits (of several parts: the earliest's)."""

    rank: int
    first: int
    last: int
    size: int


@dataclass(frozen=True, slots=True)
class Piece(Span):
    """A part to merge."""

    place: Place


class RangeFile:
    """The rows of one range: a batch for each of `spans`, in the order in which they came. Written
    by several threads at once, then read by any one."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._writing = threading.Lock()
        self.spans: list[Span] = []

    def write(self, rows: pa.RecordBatch, span: Span) -> None:
        """Append the rows as one batch."""
        with self._writing:
            if self._writer is None:
                plain = pa.ipc.IpcWriteOptions(use_threads=False)
                self._writer = pa.ipc.new_file(str(self._path), self._schema, options=plain)
            self._writer.write_batch(rows)
            self.spans.append(span)

    def finish(self) -> None:
        """No more is written."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def read(self) -> list[SortedRows]:
        """All batches."""
        return [self.batch(number) for number in range(len(self.spans))]

    def batch(self, number: int) -> SortedRows:
        """The rows of one of the spans, on the file's pages."""
        if self._reader is None:
            self._reader = pa.ipc.open_file(pa.memory_map(str(self._path)))
        span = self.spans[number]
        table = pa.Table.from_batches([self._reader.get_batch(number)])
        return SortedRows(table, span.rank, span.size)

    def remove(self) -> None:
        """Close it and free its space."""
        self.finish()
        self._reader = None
        self._path.unlink(missing_ok=True)


def bounds_of(spans: Sequence[Span], memory_bytes: int) -> Ints:
    """First indices of all ranges but the first, so that each range's rows fit in an eighth of the
    memory where they are spread evenly: they are held as read, as sorted and as written.
    [at most _MAX_RANGES - 1]; [] where one index has all."""
    total = sum(span.size for span in spans)
    wanted = min(_MAX_RANGES, 2 + 8 * total // max(1, memory_bytes))
    edges = np.unique([edge for span in spans for edge in (span.first, span.last + 1)])
    firsts = np.searchsorted(edges, [span.first for span in spans])
    ends = np.searchsorted(edges, [span.last + 1 for span in spans])
    rates = np.array([span.size / (span.last + 1 - span.first) for span in spans])
    steps = np.zeros(len(edges))  # bytes an index, how it changes at each edge
    np.add.at(steps, firsts, rates)
    np.add.at(steps, ends, -rates)
    held = np.r_[0.0, np.cumsum(np.cumsum(steps)[:-1] * np.diff(edges))]
    cuts = np.interp(np.arange(1, wanted) / wanted * held[-1], held, edges)
    inside: Ints = np.unique(np.ceil(cuts).astype(np.int64))
    inside = inside[(inside > edges[0]) & (inside < edges[-1])]
    return inside


def spill(rows: SortedRows, bounds: Ints, files: Sequence[RangeFile]) -> None:
    """Write rows to the ranges that have them. `files`: one a range, one more than bounds."""
    start = 0
    for batch in rows.table.to_batches():
        index = rows.index[start : start + len(batch)]
        start += len(batch)
        cuts = [0, *np.searchsorted(index, bounds).tolist(), len(batch)]
        for file, first, stop in zip(files, cuts, cuts[1:], strict=False):
            if first < stop:
                size = rows.size * (stop - first) // len(rows)
                span = Span(rows.rank, int(index[first]), int(index[stop - 1]), size)
                file.write(batch.slice(first, stop - first), span)
