"""Where the rows of a call come from: anything that can be iterated, pulled one by one."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Protocol

from batchgen.errors import UsageError

__all__ = ["NOT_YET", "PulledRows", "PushedRows", "Source", "row_iterator"]


class NotYet(Enum):
    """There will be another row, and it is not there now."""

    NOT_YET = 0


NOT_YET = NotYet.NOT_YET


class Source(Protocol):
    """Rows in order."""

    def take(self, *, wait: bool) -> Any:
        """The next row, or NOT_YET where it is not there and nobody wants to wait. Raises
        StopIteration at the end, and what the user's code raised."""
        ...


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
    """Rows of a list, a generator, a data set or a table. UsageError for what is one row."""
    if isinstance(rows, str | bytes | Mapping):
        what = "a mapping" if isinstance(rows, Mapping) else "one string"
        hint = "put a row into a list: [row]; take a file through batchgen.run(inputs=...)"
        raise UsageError(f"rows must be an iterable of rows, and this is {what}", hint)
    if hasattr(rows, "iter_rows"):  # Polars
        return iter(rows.iter_rows(named=True))
    if hasattr(rows, "itertuples"):
        return _of_pandas(rows)
    if hasattr(rows, "to_batches"):
        return (row for batch in rows.to_batches() for row in batch.to_pylist())
    try:
        return iter(rows)
    except TypeError:
        text = f"rows must be an iterable of rows, not {type(rows).__name__}"
        raise UsageError(text, "give a list, a generator, a data set or a table") from None


def _of_pandas(frame: Any) -> Iterator[dict[str, Any]]:
    """A missing value (NaN, NaT, NA) is an absent one, as Parquet's null is."""
    names = [str(name) for name in frame.columns]
    for values in frame.itertuples(index=False, name=None):
        yield {name: value for name, value in zip(names, values, strict=True) if _is_there(value)}


def _is_there(value: Any) -> bool:
    if isinstance(value, float):
        return value == value
    return value is not None and type(value).__name__ not in ("NaTType", "NAType")
