"""Rows that may kill the process: found by the journal, tried in ever smaller groups.

A row is suspect once it was in the engine's hands in two runs that died (no polite stop, no error
that was told). From then on the engine runs in a process of its own (`engine.processes`): one that
a row kills leaves this process alive, which finds the row and gives it up in the same run. Suspects
wait until every other row is done; then they run in groups, each durable before the next begins.

A row that takes this process along as well (a container whose memory is over ends whole) is known
by the journal alone: where it was there at another death it runs in a smaller group, at last by
itself. Nothing tells it from a `kill -9` from outside, so it takes eight runs in succession that
died with it alone until such a row is not run again and becomes an `engine_crash` row.

    deaths     2   3   4 to 11   12
    group     16   4   1         given up
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from batchgen.errors import ErrorCode, RowError
from batchgen.job.text.prepared import FailedRow, PreparedRow, failed

__all__ = ["GIVEN_UP", "SUSPECT", "Suspects", "group_size"]

SUSPECT = 2
GIVEN_UP = 12
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
