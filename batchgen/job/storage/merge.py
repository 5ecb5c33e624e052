"""Parts into one ordered table stream: an external merge by (index, sample) in bounded memory.

A piece is a row group: sorted, with known first and last index. Pieces are read in the order of
their first index; rows below the first index of the next unread piece can be emitted. Memory is the
pieces that overlap one place. Where too much overlaps (rows finished in an order unlike the
input's), sources are first merged in groups into runs with small row groups, as often as needed.
Equal (index, sample) from two writers: the part committed first wins, the others are counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import BatchgenError
from batchgen.job.schema import output_writer
from batchgen.job.stop_check import Look, nothing
from batchgen.job.storage.merge_rows import SortedRows, aligned, sorted_table, split
from batchgen.job.storage.parts import Part, read_part
from batchgen.job.stores.files import temporary_path
from batchgen.job.stores.places import Place, arrow_source
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["DamagedPartError", "Merge", "Source", "peak_bytes", "ranked"]

MEMORY_BYTES = 256 << 20
"""Of rows held at once, as Arrow arrays; three times that when a batch is sorted."""
EMIT_ROWS = 16_384
EMIT_BYTES = 16 << 20
"""Of rows held before the first of them go on, whichever comes first: rows may be long."""
_RUN_GROUP_ROWS = 2_048
_MAX_OPEN_RUNS = 128
_DECODERS = 2
_FETCHERS = 4
"""In place of decoders, where parts come from a store: most of the time is waiting."""
_MAX_AHEAD = 8
_MAX_AHEAD_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """One row group. `rank`: its source's place in the order of commits."""

    path: Place
    group: int
    rank: int
    first: int
    last: int
    size: int


@dataclass(frozen=True, slots=True)
class Source:
    """A sorted file: its row groups follow each other without overlap."""

    pieces: tuple[Piece, ...]

    @classmethod
    def of_part(cls, part: Part, rank: int) -> Source:
        """A part: one row group."""
        return cls((Piece(part.path, -1, rank, part.first, part.last, part.size),))

    @classmethod
    def of_file(cls, path: Place, rank: int) -> Source:
        """A sorted Parquet file with statistics: a run, or a finished output."""
        metadata = pq.read_metadata(arrow_source(path))
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        stats = [group.column(0).statistics for group in groups]
        return cls(
            tuple(
                Piece(path, number, rank, stat.min, stat.max, group.total_byte_size * 2)
                for number, (group, stat) in enumerate(zip(groups, stats, strict=True))
            )
        )

    @property
    def weight(self) -> int:
        """Bytes of this source that a merge holds at once."""
        return max((piece.size for piece in self.pieces), default=0)


class DamagedPartError(BatchgenError):
    """A part is not what was written."""

    def __init__(self, path: Place) -> None:
        super().__init__(
            f"part {path} was damaged after it was written",
            "run the same command again: its rows are computed anew",
        )
        self.path = path


class Merge:
    """Merge `sources`, earlier ones winning, into tables of `schema`.

    `scratch` is an existing folder for runs; they are removed when the merge ends. `look` is called
    for each table of a run; what it raises ends the merge.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        schema: pa.Schema,
        scratch: Path,
        memory_bytes: int = MEMORY_BYTES,
        look: Look = nothing,
    ) -> None:
        self._sources = list(sources)
        self._look = look
        self._schema = schema
        self._scratch = scratch
        self._memory_bytes = memory_bytes
        self._open: dict[Place, pq.ParquetFile] = {}
        self._reading = threading.Lock()
        self._runs: list[Path] = []
        self.duplicates = 0

    def tables(self) -> Iterator[pa.Table]:
        """Sorted tables without duplicates, one after the other."""
        try:
            while peak_bytes(self._sources) > self._memory_bytes and len(self._sources) > 1:
                self._sources = self._consolidated()
            yield from self._swept(self._sources)
        finally:
            self._close()

    def _consolidated(self) -> list[Source]:
        """Fewer sources: groups that fit in memory merged into runs, in the order of commits."""
        runs: list[Source] = []
        for group in _groups(self._sources, self._memory_bytes):
            path = temporary_path(self._scratch / f"run-{len(self._runs):06d}")
            self._runs.append(path)
            with output_writer(path, self._schema, part=True) as writer:
                for table in self._swept(group):
                    self._look()
                    writer.write_table(table, row_group_size=_RUN_GROUP_ROWS)
            runs.append(Source.of_file(path, len(runs)))
        self._open.clear()
        return runs

    def _swept(self, sources: Iterable[Source]) -> Iterator[pa.Table]:
        pieces = sorted(
            (piece for source in sources for piece in source.pieces),
            key=lambda piece: (piece.first, piece.rank),
        )
        active: list[SortedRows] = []
        frontiers = [*(piece.first for piece in pieces[1:]), None][: len(pieces)]
        for rows, frontier in zip(self._loaded(pieces), frontiers, strict=True):
            active.append(rows)
            if frontier is not None and not _is_enough(active):
                continue
            ready, active = split(active, frontier)
            if ready:
                table, dropped = sorted_table(ready)
                self.duplicates += dropped
                yield table

    def _loaded(self, pieces: Sequence[Piece]) -> Iterator[SortedRows]:
        """The rows of each piece, in this order; the next few are decoded meanwhile."""
        waiting: deque[tuple[Future[SortedRows], int]] = deque()
        ahead = 0
        remote = any(isinstance(piece.path, RemotePath) for piece in pieces)
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
                waiting.append((pool.submit(self._load, piece), piece.size))
                ahead += piece.size
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, piece: Piece) -> SortedRows:
        if piece.group < 0:
            table = read_part(piece.path)
        else:
            with self._reading:  # a reader serves one thread at a time
                table = self._read_group(piece)
        if table is None:
            raise DamagedPartError(piece.path)
        return SortedRows(aligned(table, self._schema), piece.rank)

    def _read_group(self, piece: Piece) -> pa.Table:
        file = self._open.get(piece.path)
        if file is None:
            if len(self._open) >= _MAX_OPEN_RUNS:
                self._open.pop(next(iter(self._open))).close()
            file = self._open[piece.path] = pq.ParquetFile(arrow_source(piece.path))
        return file.read_row_group(piece.group, use_threads=False)

    def _close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()
        for path in self._runs:
            path.unlink(missing_ok=True)


def _is_enough(active: Sequence[SortedRows]) -> bool:
    """Whether what is held makes a table worth its work."""
    num_rows = sum(len(rows.index) for rows in active)
    return num_rows >= EMIT_ROWS or sum(rows.size for rows in active) >= EMIT_BYTES


def peak_bytes(sources: Iterable[Source]) -> int:
    """The most bytes of pieces that overlap one index."""
    events = [
        event
        for source in sources
        for piece in source.pieces
        for event in ((piece.first, 0, piece.size), (piece.last, 1, -piece.size))
    ]
    events.sort()
    held = np.cumsum([size for _, _, size in events])
    return int(held.max(initial=0))


def _groups(sources: Sequence[Source], memory_bytes: int) -> Iterator[list[Source]]:
    """Neighbouring sources that together fit in memory, at least two each where there are two."""
    group: list[Source] = []
    weight = 0
    for source in sources:
        if len(group) >= 2 and weight + source.weight > memory_bytes:
            yield group
            group, weight = [], 0
        group.append(source)
        weight += source.weight
    yield group


def ranked(parts: Sequence[Part]) -> list[Source]:
    """Parts as sources, in the order of commits."""
    in_order = sorted(parts, key=lambda part: part.order)
    return [Source.of_part(part, rank) for rank, part in enumerate(in_order)]
