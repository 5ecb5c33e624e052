"""Rows that were admitted to the engine and are not finished: what waits and what runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from batchgen.engine.request import Completion
from batchgen.job.eta.moment import BegunRow
from batchgen.job.text.requests import SAMPLE_BITS, PreparedRow

__all__ = ["WaitingRow", "Window"]


@dataclass(slots=True)
class WaitingRow:
    """A row and those of its samples that are complete. `begun_at`: the moment, on the monotonic
    clock, at which the engine first computed it; 0.0 while it only waits."""

    prepared: PreparedRow
    completions: dict[int, Completion] = field(default_factory=dict)
    begun_at: float = 0.0


class Window:
    """Rows by index, and how many prompt tokens they have together."""

    def __init__(self) -> None:
        self._rows: dict[int, WaitingRow] = {}
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[WaitingRow]:
        return iter(self._rows.values())

    def get(self, index: int) -> WaitingRow | None:
        """The row, if it is here."""
        return self._rows.get(index)

    def add(self, prepared: PreparedRow) -> None:
        """Take a row in."""
        self._rows[prepared.row.index] = WaitingRow(prepared)
        self.num_tokens += prepared.num_prompt_tokens

    def remove(self, prepared: PreparedRow) -> None:
        """Forget a row."""
        del self._rows[prepared.row.index]
        self.num_tokens -= prepared.num_prompt_tokens

    def begin(self, identifiers: list[int]) -> list[int]:
        """Note which requests the engine computes for the first time; the rows that began so."""
        now = time.monotonic()
        begun = []
        for identifier in identifiers:
            row = self._rows.get(identifier >> SAMPLE_BITS)
            if row is not None and not row.begun_at:
                row.begun_at = now
                begun.append(row.prepared.row.index)
        return sorted(begun)

    def begun_before(self, moment: float) -> list[PreparedRow]:
        """Rows that have been in the engine's hands since before that moment."""
        return [row.prepared for row in self if 0.0 < row.begun_at < moment]

    def begun(self) -> tuple[BegunRow, ...]:
        """Rows in the engine's hands, with what bounds their length."""
        return tuple(
            BegunRow(
                row.begun_at,
                len(row.prepared.requests) - len(row.completions),
                row.prepared.row.params.max_tokens,
            )
            for row in self
            if row.begun_at
        )

    def finished_samples(self) -> dict[tuple[int, int], list[int]]:
        """(index, sample) -> all but the last token of each finished sample of an unfinished row: a
        run that goes on from there ends it the same way at once."""
        return {
            (row.prepared.row.index, sample): completion.token_ids[:-1]
            for row in self
            for sample, completion in row.completions.items()
            if len(completion.token_ids) > 1
        }

    def not_begun(self) -> list[PreparedRow]:
        """Rows that the engine has not touched."""
        return [row.prepared for row in self if not row.begun_at]
