"""Rows that overlap too much to be merged in memory, put on disk by ranges of their index.

One pass sorts a few megabytes at a time and writes them to the ranges that they belong to; each
range is then small enough to be sorted in memory. Rows are packed lightly: what is written here is
read once, moments later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchgen.job.stop_check import Look
from batchgen.job.storage.merge_rows import SortedRows
from batchgen.job.stores.places import Place

__all__ = ["Piece", "SpillFile", "bounds_of", "spilled"]

_MAX_RANGES = 64
"""Files written at once."""


class SpillFile:
    """The rows of one range: batches in the order in which they came. Read by any thread."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._reading = threading.Lock()
        self.num_batches = 0

    def write(self, table: pa.Table) -> int:
        """Append the rows as one batch; its number."""
        if self._writer is None:
            packed = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
            self._writer = pa.ipc.new_file(str(self._path), self._schema, options=packed)
        self._writer.write_batch(table.combine_chunks().to_batches()[0])
        self.num_batches += 1
        return self.num_batches - 1

    def finish(self) -> None:
        """No more is written."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def read(self, batch: int) -> pa.Table:
        """One batch's rows."""
        with self._reading:
            if self._reader is None:
                self._reader = pa.ipc.open_file(str(self._path))
            return pa.Table.from_batches([self._reader.get_batch(batch)])

    def remove(self) -> None:
        """Close it and free its space."""
        self.finish()
        self._reader = None
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Piece:
    """Sorted rows: a part, or one batch of a range on disk. `rank`: its place in the order of
    commits (its earliest part's), `size`: its bytes once read."""

    place: Place | SpillFile
    batch: int
    rank: int
    first: int
    last: int
    size: int


def bounds_of(pieces: Sequence[Piece], memory_bytes: int) -> npt.NDArray[np.int64]:
    """First indices of all ranges but the first, so that each range's rows fit in half of the
    memory where they are spread evenly. [at most _MAX_RANGES - 1]; [] where one index has all."""
    total = sum(piece.size for piece in pieces)
    wanted = min(_MAX_RANGES, 2 + 2 * total // max(1, memory_bytes))
    edges = np.unique([edge for piece in pieces for edge in (piece.first, piece.last + 1)])
    firsts = np.searchsorted(edges, [piece.first for piece in pieces])
    ends = np.searchsorted(edges, [piece.last + 1 for piece in pieces])
    rates = np.array([piece.size / (piece.last + 1 - piece.first) for piece in pieces])
    steps = np.zeros(len(edges))  # bytes an index, how it changes at each edge
    np.add.at(steps, firsts, rates)
    np.add.at(steps, ends, -rates)
    held = np.r_[0.0, np.cumsum(np.cumsum(steps)[:-1] * np.diff(edges))]
    cuts = np.interp(np.arange(1, wanted) / wanted * held[-1], held, edges)
    inside: npt.NDArray[np.int64] = np.unique(np.ceil(cuts).astype(np.int64))
    inside = inside[(inside > edges[0]) & (inside < edges[-1])]
    return inside


def spilled(
    sorted_rows: Iterable[SortedRows],
    bounds: npt.NDArray[np.int64],
    files: Sequence[SpillFile],
    look: Look,
) -> list[list[Piece]]:
    """What each range received of the rows. `files`: one a range, one more than bounds."""
    pieces: list[list[Piece]] = [[] for _ in files]
    for rows in sorted_rows:
        look()
        cuts = [0, *np.searchsorted(rows.index, bounds).tolist(), len(rows)]
        for place, file in enumerate(files):
            start, stop = cuts[place : place + 2]
            if start < stop:
                batch = file.write(rows.table.slice(start, stop - start))
                first, last = int(rows.index[start]), int(rows.index[stop - 1])
                size = rows.size * (stop - start) // len(rows)
                pieces[place].append(Piece(file, batch, rows.rank, first, last, size))
    for file in files:
        file.finish()
    return pieces
