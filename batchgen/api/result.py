"""One finished sample of one row, with the names of the output's columns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, NoReturn

from batchgen.api.other_words import OF_RESULTS, advised
from batchgen.job.rows import OutputColumns, OutputRow

__all__ = ["Result", "result_of"]


@dataclass(frozen=True, slots=True)
class Result(OutputColumns):
    """A completion, or the error that stands in its place (`status` is `ok` or `error`).

    Names and meanings are those of the output file's columns; `columns` holds what else the row
    had, as it was given. `index` is the row's place among those of its call, from 0; a row with
    `n` above 1 has a result for each `sample`. Times are in seconds.
    """

    started_at: datetime | None = None
    finished_at: datetime | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is a completion."""
        return self.status == "ok"

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(advised(f"a Result has no {name}", OF_RESULTS.get(name)))


_SAME = tuple(one.name for one in fields(OutputColumns))


def result_of(row: OutputRow) -> Result:
    """The output's row as a result."""
    same = {name: getattr(row, name) for name in _SAME}
    begun, done = _moment(row.started_at), _moment(row.finished_at)
    return Result(**same, started_at=begun, finished_at=done, columns=row.kept)


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else datetime.fromtimestamp(microseconds / 1e6, UTC)
