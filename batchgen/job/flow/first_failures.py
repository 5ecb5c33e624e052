"""The first failed row of each kind, with its place in the input: what a summary shows of them."""

from __future__ import annotations

from collections.abc import Sequence

from batchgen.job.flow.engine_stage import Outcome
from batchgen.job.rows import FirstFailure, InputRow, OutputRow
from batchgen.job.text.prepared import FailedRow

__all__ = ["FirstFailures"]


class FirstFailures:
    """Of this run, by code. Rows finish in any order: the lowest index is the first."""

    def __init__(self) -> None:
        self._first: dict[str, FirstFailure] = {}

    def note(self, outcomes: Sequence[Outcome], rows: Sequence[OutputRow]) -> int:
        """Take the error rows among those that these outcomes became; how many they are."""
        failed = [row for row in rows if row.error_code is not None]
        if not failed:
            return 0
        origins = {row.index: row.origin for row in map(_input_of, outcomes)}
        for row in failed:
            code = row.error_code or ""
            known = self._first.get(code)
            if known is None or row.index < known.index:
                origin = origins.get(row.index, f"row {row.index}")
                self._first[code] = FirstFailure(code, row.index, origin, row.error_message or "")
        return len(failed)

    def commonest(self, counts: dict[str, int]) -> list[FirstFailure]:
        """The first of each kind, the commonest kind before the others."""
        return sorted(
            self._first.values(), key=lambda one: (-counts.get(one.code, 0), one.index, one.code)
        )


def _input_of(outcome: Outcome) -> InputRow:
    return outcome.row if isinstance(outcome, FailedRow) else outcome.prepared.row
