"""Parts into one ordered table stream: an external merge by (index, sample) in bounded memory.

A piece is sorted and has a known first and last index. Pieces are read in the order of their
first index; rows below the first index of the next unread piece can be emitted. Memory is the
pieces that overlap one place. Where too much overlaps (shards of every Nth row, rows finished in an
order unlike the input's), rows first go to disk by ranges (`spill`), as often as needed; each range
is then sorted at once.
Equal (index, sample) from two writers: the part committed first wins, the others are counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from batchgen.errors import BatchgenError
from batchgen.job.output.merge_rows import Ints, SortedRows, aligned, sorted_table, split
from batchgen.job.output.spill import Piece, RangeFile, Span, bounds_of, spill
from batchgen.job.stopping.stop_check import StopCheck, never
from batchgen.job.storage.part import Part
from batchgen.job.storage.parts import read_part
from batchgen.job.stores.files import temporary_path
from batchgen.job.stores.places import Place
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["DamagedPartError", "Merge", "peak_bytes", "ranked"]

T = TypeVar("T")
MEMORY_BYTES = 256 << 20
"""Of rows held at once, as Arrow arrays; three times that when a batch is sorted."""
EMIT_ROWS = 16_384
EMIT_BYTES = 16 << 20
"""Of rows held before the first of them go on, whichever comes first: rows may be long."""
_DECODERS = 2
_FETCHERS = 4
"""In place of decoders, where parts come from a store: most of the time is waiting."""
_SPILL_BYTES = 16 << 20
"""Sorted together before they go to disk by ranges, by each decoder."""
_KEPT_MS = 10_000
_MAX_AHEAD = 8
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
    merge ends. `check_stop` is called as pieces go there; what it raises ends the merge.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        schema: pa.Schema,
        scratch: Path,
        memory_bytes: int = MEMORY_BYTES,
        check_stop: StopCheck = never,
    ) -> None:
        self._pieces = list(pieces)
        self._check_stop = check_stop
        self._schema = schema
        self._scratch = scratch
        self._memory_bytes = memory_bytes
        self._files: list[RangeFile] = []
        self._remote = any(isinstance(piece.place, RemotePath) for piece in pieces)
        self._counting = threading.Lock()
        self.duplicates = 0

    def tables(self) -> Iterator[pa.Table]:
        """Sorted tables without duplicates, one after the other."""
        _keep_pages()
        try:
            yield from self._merged()
        finally:
            for file in self._files:
                file.remove()

    def _merged(self) -> Iterator[pa.Table]:
        """In memory where it holds what overlaps, else a range of rows after the other."""
        much = peak_bytes(self._pieces) > self._memory_bytes
        bounds = bounds_of(self._pieces, self._memory_bytes) if much else None
        if bounds is None or not len(bounds):  # one row may have it all
            yield from self._swept(self._pieces)
            return
        portions = [partial(self._portion, pieces) for pieces in _portions(self._pieces)]
        yield from self._by_ranges(portions, bounds)

    def _by_ranges(
        self, portions: Sequence[Callable[[], SortedRows]], bounds: Ints
    ) -> Iterator[pa.Table]:
        """What is loaded portion by portion, through files of ranges."""
        files = [self._new_file() for _ in range(len(bounds) + 1)]
        tasks = ((partial(_spilled, portion, bounds, files), 0) for portion in portions)
        for _ in self._ahead(tasks, _DECODERS):
            self._check_stop()
        for file in files:
            file.finish()
        for file in files:
            yield from self._of_range(file)
            file.remove()

    def _of_range(self, file: RangeFile) -> Iterator[pa.Table]:
        """Where all of it fits in memory twice, as planned, tables of EMIT_BYTES or so."""
        much = 2 * sum(span.size for span in file.spans) > self._memory_bytes
        bounds = bounds_of(file.spans, self._memory_bytes) if much else None
        if bounds is not None and len(bounds):
            portions = [partial(file.batch, number) for number in range(len(file.spans))]
            yield from self._by_ranges(portions, bounds)
        else:
            yield from self._cut(file.read(), None)

    def _new_file(self) -> RangeFile:
        name = temporary_path(self._scratch / f"range-{len(self._files):06d}")
        self._files.append(RangeFile(name, self._schema))
        return self._files[-1]

    def _portion(self, pieces: Sequence[Piece]) -> SortedRows:
        """Rows of parts that were committed one after the other, sorted together."""
        return SortedRows(self._sorted([self._load(piece) for piece in pieces]), pieces[0].rank)

    def _sorted(self, ready: list[SortedRows]) -> pa.Table:
        table, dropped = sorted_table(ready)
        with self._counting:
            self.duplicates += dropped
        return table

    def _swept(self, pieces: Iterable[Piece]) -> Iterator[pa.Table]:
        pieces = sorted(pieces, key=lambda piece: (piece.first, piece.rank))
        active: list[SortedRows] = []
        frontiers = [*(piece.first for piece in pieces[1:]), None][: len(pieces)]
        kept = 0  # bytes that the last look found to be needed still: a look costs as much
        for rows, frontier in zip(self._loaded(pieces), frontiers, strict=True):
            active.append(rows)
            if frontier is not None and not _is_enough(active, kept):
                continue
            yield from self._cut(active, frontier)
            kept = sum(rows.size for rows in active)

    def _cut(self, rows: list[SortedRows], frontier: int | None) -> Iterator[pa.Table]:
        """Those below the frontier, taken out of `rows`, in tables no larger than need be."""
        for bound in (*_cuts(rows, frontier), frontier):
            ready, rest = map(list, split(rows, bound))
            rows[:] = rest
            if ready:
                yield self._sorted(ready)

    def _loaded(self, pieces: Sequence[Piece]) -> Iterator[SortedRows]:
        """The rows of each piece, in this order; the next few are decoded meanwhile."""
        tasks = ((partial(self._load, piece), piece.size) for piece in pieces)
        return self._ahead(tasks, 2 * _FETCHERS if self._remote else _MAX_AHEAD)

    def _ahead(self, tasks: Iterable[tuple[Callable[[], T], int]], most: int) -> Iterator[T]:
        """The result of each task, in order. `most` of the next, or fewer where the bytes that
        stand beside them are many, are at work or done meanwhile."""
        waiting: deque[tuple[Future[T], int]] = deque()
        ahead = 0
        workers = _FETCHERS if self._remote else _DECODERS
        pool = ThreadPoolExecutor(workers, thread_name_prefix="batchgen-decode")
        try:
            for task, size in tasks:
                while waiting and (len(waiting) > most or ahead > _MAX_AHEAD_BYTES):
                    done, its_size = waiting.popleft()
                    ahead -= its_size
                    yield done.result()
                waiting.append((pool.submit(task), size))
                ahead += size
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, piece: Piece) -> SortedRows:
        table = read_part(piece.place)
        if table is None:
            raise DamagedPartError(piece.place)
        return SortedRows(aligned(table, self._schema), piece.rank, piece.size)


def _keep_pages() -> None:
    """Let jemalloc, where Arrow takes its memory there, keep what is freed for the next table: to
    give pages back and to fault them in again is much of a merge's system time. Threads that begin
    now go by it."""
    if pa.default_memory_pool().backend_name == "jemalloc":
        pa.jemalloc_set_decay_ms(_KEPT_MS)


def _portions(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces of `_SPILL_BYTES` together, in the order of commits."""
    held: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.rank):
        held.append(piece)
        if sum(piece.size for piece in held) >= _SPILL_BYTES:
            yield held
            held = []
    if held:
        yield held


def _spilled(portion: Callable[[], SortedRows], bounds: Ints, files: Sequence[RangeFile]) -> None:
    spill(portion(), bounds, files)


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


def peak_bytes(pieces: Iterable[Span]) -> int:
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
        Piece(rank, part.first, part.last, part.size, part.path)
        for rank, part in enumerate(in_order)
    ]
