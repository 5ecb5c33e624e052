"""Parts into one ordered table stream: an external merge by (index, sample) in bounded memory.

A piece is sorted and has a known first and last index. Pieces are read in the order of their
first index; rows below the first index of the next unread piece can be emitted. Memory is the
pieces that overlap one place. Where too much overlaps (shards of every Nth row, rows finished in an
order unlike the input's), rows first go to disk by ranges (`spill`), as often as needed; each range
is then gathered at once, every column a single time.
Equal (index, sample) from two writers: the part committed first wins, the others are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from batchgen.errors import BatchgenError
from batchgen.job.stop_check import Look, nothing
from batchgen.job.storage.merge_rows import SortedRows, aligned, gathered, sorted_table, split
from batchgen.job.storage.parts import Part, read_part
from batchgen.job.storage.spill import Piece, SpillFile, bounds_of, spilled, unspilled
from batchgen.job.stores.files import temporary_path
from batchgen.job.stores.places import Place
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["DamagedPartError", "Merge", "Piece", "peak_bytes", "ranked"]

T = TypeVar("T")
MEMORY_BYTES = 256 << 20
"""Of rows held at once, as Arrow arrays; three times that when a batch is sorted."""
EMIT_ROWS = 16_384
EMIT_BYTES = 16 << 20
"""Of rows held before the first of them go on, whichever comes first: rows may be long."""
_DECODERS = 2
_FETCHERS = 4
"""In place of decoders, where parts come from a store: most of the time is waiting."""
_SPILL_BYTES = 32 << 20
"""Put on disk together: as many batches of a range as there are such portions."""
_MAX_AHEAD = 8
_KEPT_MS = 10_000
_MAX_AHEAD_BYTES = 16 << 20


class DamagedPartError(BatchgenError):
    """A part is not what was written."""

    def __init__(self, path: Place) -> None:
        super().__init__(
            f"part {path} was damaged after it was written",
            "run the same command again: its rows are computed anew",
        )
        self.path = path


class Merge:
    """Merge `pieces`, those of lower rank winning, into tables of `schema`.

    `scratch` is an existing folder for what memory does not hold; nothing of it is there when the
    merge ends. `look` is called for each piece that goes there; what it raises ends the merge.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        schema: pa.Schema,
        scratch: Path,
        memory_bytes: int = MEMORY_BYTES,
        look: Look = nothing,
    ) -> None:
        self._pieces = list(pieces)
        self._look = look
        self._schema = schema
        self._scratch = scratch
        self._memory_bytes = memory_bytes
        self._files: list[SpillFile] = []
        self.duplicates = 0

    def tables(self) -> Iterator[pa.Table]:
        """Sorted tables without duplicates, one after the other."""
        try:
            yield from self._merged(self._pieces)
        finally:
            for file in self._files:
                file.remove()

    def _merged(self, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
        """In memory where it holds what overlaps, else a range of rows after the other."""
        much = peak_bytes(pieces) > self._memory_bytes
        bounds = bounds_of(pieces, self._memory_bytes) if much else None
        if bounds is None or not len(bounds):  # one row may have it all
            yield from self._swept(pieces)
            return
        _keep_freed_pages()
        made = [self._new_file() for _ in range(len(bounds) + 1)]
        in_ranges = spilled(self._batches(pieces), bounds, made, self._look)
        for file, found in zip(made, in_ranges, strict=True):
            yield from self._of_range(found)
            file.remove()

    def _of_range(self, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
        """One table where all of it fits in memory twice, as planned."""
        if 2 * sum(piece.size for piece in pieces) > self._memory_bytes:
            yield from self._merged(pieces)
        elif pieces:
            blocks = [block for piece in pieces for block in piece.blocks]
            table, dropped = gathered(list(self._ahead(pieces, _batch)), blocks)
            self.duplicates += dropped
            yield table

    def _new_file(self) -> SpillFile:
        name = temporary_path(self._scratch / f"range-{len(self._files):06d}")
        self._files.append(SpillFile(name, self._schema))
        return self._files[-1]

    def _batches(self, pieces: Sequence[Piece]) -> Iterator[list[SortedRows]]:
        """Rows of several pieces that were committed one after the other."""
        held: list[SortedRows] = []
        size = 0
        for found in self._loaded(pieces):
            held += found
            size += sum(rows.size for rows in found)
            if size >= _SPILL_BYTES:
                yield held
                held, size = [], 0
        if held:
            yield held

    def _sorted(self, ready: list[SortedRows]) -> pa.Table:
        table, dropped = sorted_table(ready)
        self.duplicates += dropped
        return table

    def _swept(self, pieces: Iterable[Piece]) -> Iterator[pa.Table]:
        pieces = sorted(pieces, key=lambda piece: (piece.first, piece.rank))
        active: list[SortedRows] = []
        frontiers = [*(piece.first for piece in pieces[1:]), None][: len(pieces)]
        kept = 0  # bytes that the last look found to be needed still: a look costs as much
        for rows, frontier in zip(self._loaded(pieces), frontiers, strict=True):
            active += rows
            if frontier is not None and not _is_enough(active, kept):
                continue
            for bound in (*_cuts(active, frontier), frontier):
                ready, active = split(active, bound)
                if ready:
                    yield self._sorted(ready)
            kept = sum(rows.size for rows in active)

    def _loaded(self, pieces: Sequence[Piece]) -> Iterator[list[SortedRows]]:
        return self._ahead(pieces, self._load)

    def _ahead(self, pieces: Sequence[Piece], load: Callable[[Piece], T]) -> Iterator[T]:
        """What is loaded of each piece, in this order; the next few are decoded meanwhile."""
        waiting: deque[tuple[Future[T], int]] = deque()
        ahead = 0
        remote = any(isinstance(piece.place, RemotePath) for piece in pieces)
        pool = ThreadPoolExecutor(
            _FETCHERS if remote else _DECODERS, thread_name_prefix="batchgen-decode"
        )
        try:
            for piece in pieces:
                while waiting and (
                    len(waiting) > (2 * _FETCHERS if remote else _MAX_AHEAD)
                    or ahead > _MAX_AHEAD_BYTES
                ):
                    done, size = waiting.popleft()
                    ahead -= size
                    yield done.result()
                waiting.append((pool.submit(load, piece), piece.size))
                ahead += piece.size
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, piece: Piece) -> list[SortedRows]:
        """A part's rows, or those of each part that has some in a batch on disk."""
        if isinstance(piece.place, SpillFile):
            return unspilled(_batch(piece), piece.blocks)
        table = read_part(piece.place)
        if table is None:
            raise DamagedPartError(piece.place)
        return [SortedRows(aligned(table, self._schema), piece.rank)]


def _batch(piece: Piece) -> pa.Table:
    assert isinstance(piece.place, SpillFile)
    return piece.place.read(piece.batch)


def _keep_freed_pages() -> None:
    """What one range frees the next one takes: pages that go back to the system in between cost a
    tenth of the time."""
    with suppress(NotImplementedError):  # without jemalloc there is nothing to set
        pa.jemalloc_set_decay_ms(_KEPT_MS)


def _is_enough(active: Sequence[SortedRows], kept: int) -> bool:
    """Whether what came since makes a table worth its work."""
    size = sum(rows.size for rows in active) - kept
    return size >= EMIT_BYTES or (not kept and sum(map(len, active)) >= EMIT_ROWS)


def _cuts(active: Sequence[SortedRows], frontier: int | None) -> list[int]:
    """Where to cut rows that are held so that each table made of them is of EMIT_BYTES or so."""
    size = sum(rows.size for rows in active)
    if size < 2 * EMIT_BYTES:
        return []
    index = np.sort(np.concatenate([rows.index for rows in active]))
    if frontier is not None:
        index = index[: int(np.searchsorted(index, frontier))]
    step = max(1, EMIT_BYTES * sum(map(len, active)) // size)
    return list(map(int, np.unique(index[step:-step:step])))


def peak_bytes(pieces: Iterable[Piece]) -> int:
    """The most bytes of pieces that overlap one index."""
    events = [
        event
        for piece in pieces
        for event in ((piece.first, 0, piece.size), (piece.last, 1, -piece.size))
    ]
    events.sort()
    held = np.cumsum([size for _, _, size in events])
    return int(held.max(initial=0))


def ranked(parts: Sequence[Part]) -> list[Piece]:
    """Parts to merge, in the order of commits."""
    in_order = sorted(parts, key=lambda part: part.order)
    return [
        Piece(part.path, 0, rank, part.first, part.last, part.size)
        for rank, part in enumerate(in_order)
    ]
