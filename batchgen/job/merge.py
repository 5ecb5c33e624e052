"""Parts into one ordered table stream: an external merge by (index, sample) in bounded memory.

A piece is a row group: sorted, with known first and last index. Pieces are read in the order of
their first index; rows below the first index of the next unread piece can be emitted. Memory is the
pieces that overlap one place. Where too much overlaps (rows finished in an order unlike the
input's), sources are first merged in groups into runs with small row groups, as often as needed.
Equal (index, sample) from two writers: the part committed first wins, the others are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import BatchgenError
from batchgen.job.files import temporary_path
from batchgen.job.parts import Part, read_part
from batchgen.job.schema import output_writer

__all__ = ["DamagedPartError", "Merge", "Source", "aligned", "peak_bytes", "ranked", "row_keys"]

MEMORY_BYTES = 256 << 20
"""Of rows held at once, as Arrow arrays; three times that when a batch is sorted."""
EMIT_ROWS = 16_384
_RUN_GROUP_ROWS = 2_048
_MAX_OPEN_RUNS = 128
_SAMPLES_BITS = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """One row group. `rank`: its source's place in the order of commits."""

    path: Path
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
    def of_file(cls, path: Path, rank: int) -> Source:
        """A sorted Parquet file with statistics: a run, or a finished output."""
        metadata = pq.read_metadata(path)
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

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"part {path} was damaged after it was written",
            "run the same command again: its rows are computed anew",
        )
        self.path = path


class Merge:
    """Merge `sources`, earlier ones winning, into tables of `schema`.

    `scratch` is an existing folder for runs; they are removed when the merge ends.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        schema: pa.Schema,
        scratch: Path,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._sources = list(sources)
        self._schema = schema
        self._scratch = scratch
        self._memory_bytes = memory_bytes
        self._open: dict[Path, pq.ParquetFile] = {}
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
                    writer.write_table(table, row_group_size=_RUN_GROUP_ROWS)
            runs.append(Source.of_file(path, len(runs)))
        self._open.clear()
        return runs

    def _swept(self, sources: Iterable[Source]) -> Iterator[pa.Table]:
        pieces = sorted(
            (piece for source in sources for piece in source.pieces),
            key=lambda piece: (piece.first, piece.rank),
        )
        active: list[_Rows] = []
        frontiers = [*(piece.first for piece in pieces[1:]), None][: len(pieces)]
        for piece, frontier in zip(pieces, frontiers, strict=True):
            active.append(self._load(piece))
            if frontier is not None and sum(len(rows.index) for rows in active) < EMIT_ROWS:
                continue
            ready, active = _split(active, frontier)
            if ready:
                table, dropped = _sorted_table(ready)
                self.duplicates += dropped
                yield table

    def _load(self, piece: Piece) -> _Rows:
        table = read_part(piece.path) if piece.group < 0 else self._read_group(piece)
        if table is None:
            raise DamagedPartError(piece.path)
        return _Rows(aligned(table, self._schema), piece.rank)

    def _read_group(self, piece: Piece) -> pa.Table:
        file = self._open.get(piece.path)
        if file is None:
            if len(self._open) >= _MAX_OPEN_RUNS:
                self._open.pop(next(iter(self._open))).close()
            file = self._open[piece.path] = pq.ParquetFile(piece.path)
        return file.read_row_group(piece.group, use_threads=False)

    def _close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()
        for path in self._runs:
            path.unlink(missing_ok=True)


class _Rows:
    """Rows of one source, sorted."""

    __slots__ = ("index", "rank", "table")

    def __init__(self, table: pa.Table, rank: int) -> None:
        self.table = table
        self.rank = rank
        self.index: npt.NDArray[np.int64] = table["index"].to_numpy()

    def slice(self, start: int, stop: int) -> _Rows:
        """Rows start to stop, without a copy."""
        return _Rows(self.table.slice(start, stop - start), self.rank)


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


def aligned(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the schema's columns: missing ones null, others cast or dropped."""
    if table.schema.equals(schema, check_metadata=False):
        return table.replace_schema_metadata(None)
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


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


def _split(active: list[_Rows], frontier: int | None) -> tuple[list[_Rows], list[_Rows]]:
    """Rows below the frontier (None: all), and the rest."""
    if frontier is None:
        return active, []
    ready, rest = [], []
    for rows in active:
        cut = int(np.searchsorted(rows.index, frontier))
        if cut:
            ready.append(rows.slice(0, cut))
        if cut < len(rows.index):
            rest.append(rows.slice(cut, len(rows.index)))
    return ready, rest


def _sorted_table(ready: list[_Rows]) -> tuple[pa.Table, int]:
    """The rows as one table sorted by (index, sample), and how many duplicates were dropped."""
    ready = sorted(ready, key=lambda rows: rows.rank)
    table = pa.concat_tables([rows.table for rows in ready])
    keys = row_keys(table)
    if bool((keys[1:] > keys[:-1]).all()):
        return table, 0
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    return table.take(pa.array(order[first])), int(len(first) - first.sum())


def row_keys(table: pa.Table) -> npt.NDArray[np.int64]:
    """(index, sample) of every row as one sortable number. [num_rows]"""
    index: npt.NDArray[np.int64] = table["index"].to_numpy()
    sample: npt.NDArray[np.int64] = table["sample"].to_numpy()
    return (index << _SAMPLES_BITS) | sample


def ranked(parts: Sequence[Part]) -> list[Source]:
    """Parts as sources, in the order of commits."""
    in_order = sorted(parts, key=lambda part: part.order)
    return [Source.of_part(part, rank) for rank, part in enumerate(in_order)]
