"""The first failed row of each kind, with its place in the input: what a summary shows of them.

The manifest keeps them, so that a run that goes on, or finds all done, names their places too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from batchgen.job.flow.outbox import Outcome
from batchgen.job.rows import FirstFailure, InputRow, OutputRow
from batchgen.job.text.prepared import FailedRow

__all__ = ["FirstFailures"]


class FirstFailures:
    """Of this run and of `earlier` ones, by code. Rows finish in any order: the lowest index is the
    first."""

    def __init__(self, earlier: Iterable[Mapping[str, Any]] = ()) -> None:
        known = (FirstFailure(**each) for each in earlier)
        self._first = {failure.code: failure for failure in known}

    def kept(self) -> list[dict[str, Any]]:
        """In the form that the manifest keeps."""
        return [asdict(failure) for failure in list(self._first.values())]

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
        found = [failure for failure in self._first.values() if failure.code in counts]
        return sorted(found, key=lambda one: (-counts[one.code], one.index, one.code))


def _input_of(outcome: Outcome) -> InputRow:
    return outcome.row if isinstance(outcome, FailedRow) else outcome.prepared.row
