"""Where the rows of a call come from: anything that can be iterated, pulled one by one."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Protocol

import pyarrow as pa

from batchgen.errors import UsageError

__all__ = [
    "NOT_YET", "PulledRows", "PushedRows", "Source", "is_missing", "is_there", "row_iterator",
]  # fmt: skip

_BATCH_ROWS = 1024
_PLAIN = frozenset((dict, str, list))


class NotYet(Enum):
    """There will be another row, and it is not there now."""

    NOT_YET = 0


NOT_YET = NotYet.NOT_YET


class Source(Protocol):
    """Rows in order."""

    def take(self, *, wait: bool) -> Any:
        """The next row, or NOT_YET where it is not there and nobody wants to wait. Raises
        StopIteration at the end, and what the user's code raised."""


class PulledRows:
    """Rows of an iterator, in the thread of whoever asks for results: asking is waiting."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = row_iterator(rows)

    def take(self, *, wait: bool) -> Any:
        """The next row."""
        return next(self._rows)


class PushedRows:
    """Rows that another task puts in: the end and a failure come the same way."""

    def __init__(self) -> None:
        self._rows: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._end: BaseException | None = None

    def put(self, row: Any) -> None:
        """Add one."""
        self._rows.put((row, None))

    def end(self, failure: BaseException | None = None) -> None:
        """No more come, or the code that made them failed."""
        self._rows.put((None, failure or StopIteration()))

    def take(self, *, wait: bool) -> Any:
        """The next row, NOT_YET, or an exception."""
        if self._end is None:
            try:
                row, self._end = self._rows.get(timeout=_WAIT_S if wait else 0)
            except queue.Empty:
                return NOT_YET
        if self._end is not None:
            raise self._end
        return row


_WAIT_S = 0.1


def row_iterator(rows: Iterable[Any]) -> Iterator[Any]:
    """Rows of a list, a generator, a data set or a table. UsageError for what is one row, and for
    a table that was not computed yet."""
    if isinstance(rows, str | bytes | Mapping):
        what = "a mapping" if isinstance(rows, Mapping) else "one string"
        hint = "put a row into a list: [row]; take a file through batchgen.run(inputs=...)"
        raise UsageError(f"rows must be an iterable of rows, and this is {what}", hint)
    table = _of_table(rows)
    if table is not None:
        return table
    try:
        return _with_tables_opened(iter(rows))
    except TypeError:
        text = f"rows must be an iterable of rows, not {type(rows).__name__}"
        raise UsageError(text, "give a list, a generator, a data set or a table") from None


def _with_tables_opened(rows: Iterator[Any]) -> Iterator[Any]:
    """Large tables come in pieces (`iter_batches`, `read_csv(chunksize=...)`): their rows."""
    for row in rows:
        table = None if type(row) in _PLAIN else _of_table(row)
        if table is None:
            yield row
        else:
            yield from table


def _of_table(rows: Any) -> Iterator[dict[str, Any]] | None:
    """The rows of a table, or a reader of one; None where it is something else."""
    if type(rows).__module__.partition(".")[0] == "polars":
        return _of_polars(rows)
    if hasattr(rows, "itertuples"):
        return _of_pandas(rows)
    if hasattr(rows, "to_batches"):
        return _of_batches(rows.to_batches())
    if any(hasattr(rows, name) for name in ("schema", "columns")):
        if hasattr(rows, "__arrow_c_array__"):
            return _of_batches([pa.record_batch(rows)])
        if hasattr(rows, "__arrow_c_stream__"):  # a reader of batches, a query of DuckDB or Ibis
            return _of_batches(pa.RecordBatchReader.from_stream(rows))
    return None


def _of_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield from batch.slice(start, _BATCH_ROWS).to_pylist()


def _of_polars(frame: Any) -> Iterator[dict[str, Any]] | None:
    if hasattr(frame, "collect"):
        text = "rows must be an iterable of rows, and this is a query that was not run yet"
        raise UsageError(text, "give what it finds: rows.collect()")
    return frame.iter_rows(named=True) if hasattr(frame, "iter_rows") else None


def _of_pandas(frame: Any) -> Iterator[dict[str, Any]]:
    """A missing value (NaN, NaT, NA) is an absent one, as Parquet's null is."""
    names = [str(name) for name in frame.columns]
    for values in frame.itertuples(index=False, name=None):
        yield {name: value for name, value in zip(names, values, strict=True) if is_there(value)}


def is_there(value: Any) -> bool:
    """Whether a table's value is none of those that say that there is none."""
    if isinstance(value, float):
        return value == value
    return value is not None and not is_missing(value)


def is_missing(value: Any) -> bool:
    """Whether it is pandas' NA or NaT."""
    return type(value).__name__ in ("NaTType", "NAType")
