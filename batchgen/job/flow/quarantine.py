"""Rows that may kill the process: found by the journal, tried in ever smaller groups.

A row is suspect once it was in the engine's hands in two runs that died (no polite stop, no error
that was told). Suspects wait until every other row is done; then they run in groups, each durable
before the next begins, so that a death points at one group alone. A row that was there at another
death runs in a smaller group, at last by itself; one that dies by itself twice is not run again and
becomes an `engine_crash` row. So each such row costs four more runs at most, whatever was in flight
with it at first, and no other row is lost.

    deaths     2   3   4   5   6
    group     16   4   1   1   given up
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from batchgen.errors import ErrorCode, RowError
from batchgen.job.text.requests import FailedRow, PreparedRow, failed

__all__ = ["GIVEN_UP", "SUSPECT", "Suspects", "group_size"]

SUSPECT = 2
GIVEN_UP = 6
_GROUP_SIZES = {2: 16, 3: 4}


class Suspects:
    """Rows set aside. `deaths(index)`: how many runs died while they had that row in hand."""

    def __init__(self, deaths: Callable[[int], int]) -> None:
        self._deaths = deaths
        self._rows: dict[int, list[PreparedRow]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def take_from(self, chunk: list[PreparedRow]) -> tuple[list[PreparedRow], list[FailedRow]]:
        """Set suspect rows aside: those that may run now, and those that are given up."""
        trusted, given_up = [], []
        for prepared in chunk:
            deaths = self._deaths(prepared.row.index)
            if deaths < SUSPECT:
                trusted.append(prepared)
            elif deaths < GIVEN_UP:
                self._rows[deaths].append(prepared)
            else:
                given_up.append(failed(prepared, _crash(deaths), untried=True))
        return trusted, given_up

    def groups(self) -> Iterator[list[PreparedRow]]:
        """Rows to run together, those least suspect first."""
        for deaths in sorted(self._rows):
            rows, size = self._rows[deaths], group_size(deaths)
            for start in range(0, len(rows), size):
                yield rows[start : start + size]


def _crash(deaths: int) -> RowError:
    return RowError(
        ErrorCode.ENGINE_CRASH,
        f"{deaths} runs died while this row was in the engine, the last ones with it alone; "
        "--retry failed tries it again",
    )


def group_size(deaths: int) -> int:
    """How many rows with so many deaths run together."""
    return _GROUP_SIZES.get(deaths, 1)
