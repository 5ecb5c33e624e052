"""Rows that were admitted to the engine and are not finished: what waits and what runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from batchgen.engine.request import Completion
from batchgen.engine.stats import EngineStats
from batchgen.job.eta.moment import BegunRow, ReadRows
from batchgen.job.eta.order import ReadingOrder
from batchgen.job.text.prepared import PreparedRow, row_and_sample

__all__ = ["WaitingRow", "Window"]


@dataclass(slots=True)
class WaitingRow:
    """A row and those of its samples that are complete. `begun_at`: the moment, on the monotonic
    clock, at which the engine first computed it; 0.0 while it only waits."""

    prepared: PreparedRow
    completions: dict[int, Completion] = field(default_factory=dict)
    begun_at: float = 0.0

    @property
    def most_tokens(self) -> int:
        """What bounds the length of each of its samples."""
        return self.prepared.row.params.max_tokens


class Window:
    """Rows by index, and how many prompt tokens and bytes to carry they have together; of what came
    and went, sums."""

    def __init__(self) -> None:
        self._rows: dict[int, WaitingRow] = {}
        self._begun: dict[int, WaitingRow] = {}
        self._waiting: Counter[int] = Counter()  # samples by `max_tokens`
        self._order = ReadingOrder()
        self._read_tokens = 0
        self._begun_tokens = 0
        self.num_tokens = 0
        self.carried = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[WaitingRow]:
        return iter(self._rows.values())

    def get(self, index: int) -> WaitingRow | None:
        """The row, if it is here."""
        return self._rows.get(index)

    def add(self, prepared: PreparedRow) -> None:
        """Take a row in."""
        row = self._rows[prepared.row.index] = WaitingRow(prepared)
        self._waiting[row.most_tokens] += len(prepared.requests)
        self._order = self._order.read(row.most_tokens)
        self._read_tokens += prepared.num_prompt_tokens
        self.num_tokens += prepared.num_prompt_tokens
        self.carried += prepared.row.carried

    def remove(self, prepared: PreparedRow) -> None:
        """Forget a row."""
        row = self._rows.pop(prepared.row.index)
        if self._begun.pop(prepared.row.index, None) is None:
            self._wait_no_more(row)
        self.num_tokens -= prepared.num_prompt_tokens
        self.carried -= prepared.row.carried

    def begin(self, identifiers: list[int]) -> list[int]:
        """Note which requests the engine computes for the first time; the rows that began so."""
        now = time.monotonic()
        begun = []
        for identifier in identifiers:
            index, _ = row_and_sample(identifier)
            row = self._rows.get(index)
            if row is not None and not row.begun_at:
                row.begun_at = now
                self._begun[index] = row
                self._begun_tokens += row.prepared.num_prompt_tokens
                self._wait_no_more(row)
                begun.append(index)
        return sorted(begun)

    def begun_before(self, moment: float) -> list[PreparedRow]:
        """Rows that have been in the engine's hands since before that moment."""
        return [row.prepared for row in self._begun.values() if row.begun_at < moment]

    def read(self, stats: EngineStats) -> ReadRows:
        """Rows in the engine's hands and rows that wait, with what bounds their length. `stats`:
        the engine's, which is to do all of them."""
        begun = tuple(
            BegunRow(
                row.begun_at, len(row.prepared.requests) - len(row.completions), row.most_tokens
            )
            for row in self._begun.values()
        )
        alone = 1.0
        if stats.folded_rows:
            samples = sum(row.samples for row in begun) + self._waiting.total()
            alone = min((stats.num_running + stats.num_waiting) / max(samples, 1), 1.0)
        computed = stats.prompt_tokens - stats.cached_tokens
        prompts = self._read_tokens, self._begun_tokens, computed
        return ReadRows(begun, dict(self._waiting), self._order, *prompts, alone)

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

    def _wait_no_more(self, row: WaitingRow) -> None:
        self._waiting[row.most_tokens] -= len(row.prepared.requests)
        if not self._waiting[row.most_tokens]:
            del self._waiting[row.most_tokens]
