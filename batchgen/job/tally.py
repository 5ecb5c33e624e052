"""Counts over output rows: what the summary says of the whole output and of this run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from batchgen.job.rows import OutputRow

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """`ok`, `errors`, `skipped` count input rows; `length` counts completions cut by max_tokens."""

    ok: int = 0
    errors: int = 0
    skipped: int = 0
    length: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def rows(self) -> int:
        """Input rows that have their output."""
        return self.ok + self.errors + self.skipped

    def add(self, rows: Iterable[OutputRow]) -> None:
        """Count these output rows; a prompt counts once whatever the number of samples."""
        for row in rows:
            if row.sample == 0:
                self._add_input_row(row)
            if row.status == "ok":
                self.length += row.finish_reason == "length"
                self.completion_tokens += row.completion_tokens or 0
                self.cached_tokens += row.cached_tokens or 0

    def _add_input_row(self, row: OutputRow) -> None:
        if row.status == "ok":
            self.ok += 1
            self.prompt_tokens += row.prompt_tokens or 0
        elif row.status == "error":
            self.errors += 1
        else:
            self.skipped += 1

    def plus(self, other: Tally) -> Tally:
        """The sum of two counts."""
        names = self.__slots__
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in names})
