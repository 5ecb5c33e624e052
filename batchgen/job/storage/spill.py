"""Rows that overlap too much to be merged in memory, put on disk by ranges of their index.

One pass cuts a few megabytes of parts at a time into the ranges that their rows belong to; each
range is then small enough to be sorted in memory, which is done once, there. Rows are packed
lightly: what is written here is read once, moments later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from batchgen.job.arrow_ints import integers
from batchgen.job.stop_check import Look
from batchgen.job.storage.merge_rows import Ints, SortedRows
from batchgen.job.stores.places import Place

__all__ = ["Piece", "SpillFile", "bounds_of", "spilled", "unspilled"]

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

    def write(self, columns: Sequence[pa.Array]) -> int:
        """Append the rows as one batch; its number."""
        if self._writer is None:
            packed = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
            self._writer = pa.ipc.new_file(str(self._path), self._schema, options=packed)
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
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
    """Sorted rows of a part, or a batch of a range on disk: sorted `blocks`, (rank, rows) of each.
    `rank`: its place in the order of commits (its earliest part's), `size`: its bytes once read."""

    place: Place | SpillFile
    batch: int
    rank: int
    first: int
    last: int
    size: int
    blocks: tuple[tuple[int, int], ...] = ()


def bounds_of(pieces: Sequence[Piece], memory_bytes: int) -> Ints:
    """First indices of all ranges but the first, so that each range's rows fit in a quarter of the
    memory where they are spread evenly: they are held as read, as sorted and as written.
    [at most _MAX_RANGES - 1]; [] where one index has all."""
    total = sum(piece.size for piece in pieces)
    wanted = min(_MAX_RANGES, 2 + 4 * total // max(1, memory_bytes))
    edges = np.unique([edge for piece in pieces for edge in (piece.first, piece.last + 1)])
    firsts = np.searchsorted(edges, [piece.first for piece in pieces])
    ends = np.searchsorted(edges, [piece.last + 1 for piece in pieces])
    rates = np.array([piece.size / (piece.last + 1 - piece.first) for piece in pieces])
    steps = np.zeros(len(edges))  # bytes an index, how it changes at each edge
    np.add.at(steps, firsts, rates)
    np.add.at(steps, ends, -rates)
    held = np.r_[0.0, np.cumsum(np.cumsum(steps)[:-1] * np.diff(edges))]
    cuts = np.interp(np.arange(1, wanted) / wanted * held[-1], held, edges)
    inside: Ints = np.unique(np.ceil(cuts).astype(np.int64))
    inside = inside[(inside > edges[0]) & (inside < edges[-1])]
    return inside


def spilled(
    batches: Iterable[list[SortedRows]],
    bounds: Ints,
    files: Sequence[SpillFile],
    look: Look,
) -> list[list[Piece]]:
    """What each range received of the rows. `files`: one a range, one more than bounds."""
    pieces: list[list[Piece]] = [[] for _ in files]
    for batch in batches:
        look()
        for place, piece in _spilled_batch(batch, bounds, files):
            pieces[place].append(piece)
    for file in files:
        file.finish()
    return pieces


def _spilled_batch(
    batch: list[SortedRows], bounds: Ints, files: Sequence[SpillFile]
) -> Iterator[tuple[int, Piece]]:
    """Each range's rows of these parts, copied once. A slice of a table would cost several times
    what one of an array does, and there are as many as parts, ranges and columns together."""
    columns = [[_whole(column) for column in rows.table.columns] for rows in batch]
    cuts = [[0, *np.searchsorted(r.index, bounds).tolist(), len(r)] for r in batch]
    for place, file in enumerate(files):
        within = [
            (number, cut[place], cut[place + 1])
            for number, cut in enumerate(cuts)
            if cut[place] < cut[place + 1]
        ]
        if not within:
            continue
        arrays = [
            pa.concat_arrays([columns[n][column].slice(a, b - a) for n, a, b in within])
            for column in range(len(columns[0]))
        ]
        yield (
            place,
            Piece(
                file,
                file.write(arrays),
                rank=min(batch[n].rank for n, _, _ in within),
                first=int(min(batch[n].index[a] for n, a, _ in within)),
                last=int(max(batch[n].index[b - 1] for n, _, b in within)),
                size=sum(batch[n].size * (b - a) // len(batch[n]) for n, a, b in within),
                blocks=tuple((batch[n].rank, b - a) for n, a, b in within),
            ),
        )


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def unspilled(table: pa.Table, blocks: Iterable[tuple[int, int]]) -> list[SortedRows]:
    """A batch's rows by the part that they come from."""
    found, start, size = [], 0, table.nbytes
    index = integers(table["index"])
    for rank, count in blocks:
        rows, stop = table.slice(start, count), start + count
        found.append(SortedRows(rows, rank, size * count // table.num_rows, index[start:stop]))
        start = stop
    return found
