"""Sorted rows of several writers into one sorted table, the first commit of a row winning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchgen.job.arrow_ints import as_arrow, integers

__all__ = ["Ints", "SortedRows", "aligned", "sorted_table", "split"]

Ints = npt.NDArray[np.int64]
_SAMPLES_BITS = 16


class SortedRows:
    """Rows of one source, sorted. `size`: their bytes."""

    __slots__ = ("index", "rank", "size", "table")

    def __init__(
        self, table: pa.Table, rank: int, size: int | None = None, index: Ints | None = None
    ) -> None:
        self.table = table
        self.rank = rank
        self.size: int = table.nbytes if size is None else size
        self.index: Ints = integers(table["index"]) if index is None else index

    def slice(self, start: int, stop: int) -> SortedRows:
        """Rows start to stop, without a copy; their bytes as if all rows were alike, since to
        count them costs more than to cut them."""
        size = self.size * (stop - start) // len(self)
        table = self.table.slice(start, stop - start)
        return SortedRows(table, self.rank, size, self.index[start:stop])

    def __len__(self) -> int:
        return len(self.index)


def aligned(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the schema's columns: missing ones null, others cast or dropped."""
    if table.schema.equals(schema, check_metadata=False):
        return table.replace_schema_metadata(None)
    given = dict(zip(table.column_names, table.itercolumns(), strict=True))
    columns = [
        given[field.name].cast(field.type)
        if field.name in given
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def split(
    active: list[SortedRows], frontier: int | None
) -> tuple[list[SortedRows], list[SortedRows]]:
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


def sorted_table(ready: list[SortedRows]) -> tuple[pa.Table, int]:
    """The rows as one table sorted by (index, sample), and how many duplicates were dropped."""
    ready = sorted(ready, key=lambda rows: rows.rank)
    table = pa.concat_tables([rows.table for rows in ready])
    keys = _row_keys(table)
    if bool((keys[1:] > keys[:-1]).all()):
        return table, 0
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    if not bool((ordered[1:] == ordered[:-1]).any()):
        return _taken(table, order), 0
    ranks = np.repeat([rows.rank for rows in ready], [len(rows) for rows in ready])[order]
    won = order[_first_commits(ordered >> _SAMPLES_BITS, ranks)]
    return _taken(table, won), len(order) - len(won)


def _taken(table: pa.Table, rows: Ints) -> pa.Table:
    """The table's rows at these places; a column after the other, so that one alone is there as a
    whole and in its chunks."""
    places = as_arrow(rows)
    columns = [column.combine_chunks().take(places) for column in table.columns]
    return pa.table(columns, schema=table.schema)


def _first_commits(index: Ints, ranks: Ints) -> npt.NDArray[np.bool_]:
    """Of rows sorted by index: those of the lowest rank that has the index, all samples together
    (one writer may have met an error where another made several). [num_rows]"""
    starts = np.flatnonzero(np.r_[True, index[1:] != index[:-1]])
    best = np.minimum.reduceat(ranks, starts)
    won: npt.NDArray[np.bool_] = ranks == np.repeat(best, np.diff(np.r_[starts, len(index)]))
    return won


def _row_keys(table: pa.Table) -> npt.NDArray[np.int64]:
    """(index, sample) of every row as one sortable number. [num_rows]"""
    index: npt.NDArray[np.int64] = integers(table["index"])
    sample: npt.NDArray[np.int64] = integers(table["sample"])
    return (index << _SAMPLES_BITS) | sample
