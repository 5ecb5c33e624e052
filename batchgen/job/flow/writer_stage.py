"""The thread that turns outcomes into output rows and appends them to the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from batchgen.engine.request import Completion
from batchgen.job.flow.channel import Channel
from batchgen.job.flow.first_failures import FirstFailures
from batchgen.job.flow.outbox import FinishedRow, Outcome
from batchgen.job.flow.progress import Live
from batchgen.job.flow.results import Results
from batchgen.job.row_sizes import BYTES_PER_TOKEN
from batchgen.job.rows import OutputRow
from batchgen.job.text.prepared import FailedRow

__all__ = ["RowSink", "WriterStage", "finished_rows"]

_TICK_S = 1.0
_MOST_ROWS = 8192
_MOST_TOKENS = 4_000_000
_CHARACTERS_PER_TOKEN = 4


def finished_rows() -> Channel[list[Outcome]]:
    """The way to the writing thread: how far it may fall behind, in rows and in their tokens (some
    40 bytes each), before the engine waits."""
    return Channel(_MOST_ROWS, _weight, _MOST_TOKENS)


def _weight(outcomes: Sequence[Outcome]) -> int:
    return sum(map(_weight_of, outcomes))


def _weight_of(outcome: Outcome) -> int:
    """Tokens of prompt and completions, of a prompt that never became tokens about as many; and
    what takes as much memory."""
    if isinstance(outcome, FailedRow):
        text = len(outcome.prompt or "") // _CHARACTERS_PER_TOKEN
        return (outcome.num_prompt_tokens or text) + outcome.row.carried // BYTES_PER_TOKEN
    return outcome.prepared.weight + sum(map(_weight_of_completion, outcome.completions))


def _weight_of_completion(made: Completion) -> int:
    likely = made.top_logprobs
    return len(made.token_ids) * (1 + (len(likely[-1]) if likely else 0))


class RowSink(Protocol):
    """What of the ledger the writing thread needs."""

    def append(self, rows: Sequence[OutputRow]) -> None:
        """Take finished rows, each with all of its samples."""


@dataclass(slots=True)
class WriterStage:
    """Drains `finished` until it is closed. `checkpoint`, called now and then, notes how far the
    input was read and says it: always past the rows that are then appended, for a row that is done
    and not on record may be another one by the next run, and nobody would know.
    """

    finished: Channel[list[Outcome]]
    results: Results
    sink: RowSink
    _: KW_ONLY
    checkpoint: Callable[[], int]
    checkpoint_seconds: float
    live: Live
    failures: FirstFailures = field(default_factory=FirstFailures)
    _due: float = field(default=0.0, init=False)
    _on_record: int = field(default=0, init=False)

    def run(self) -> None:
        """Write everything; on a failure refuse what would still come, and raise."""
        try:
            while not self.finished.drained:
                outcomes = self.finished.get(timeout=_TICK_S)
                if outcomes:
                    self._append(outcomes)
                self._keep_time()
            self._note()
        except BaseException:
            self.finished.cancel()
            raise

    def _append(self, outcomes: list[Outcome]) -> None:
        rows = self.results.output_rows(outcomes)
        if max((row.index for row in rows), default=-1) >= self._on_record:
            self._note()
        self.sink.append(rows)
        live = self.live
        live.failed += self.failures.note(outcomes, rows)
        live.rows += len(outcomes)
        most = {
            done.prepared.row.index: done.prepared.row.params.max_tokens
            for done in outcomes
            if isinstance(done, FinishedRow)
        }
        for row in rows:
            if row.completion_tokens is not None:
                live.lengths.add(row.completion_tokens, most[row.index])
        live.finished_tokens += sum(row.completion_tokens or 0 for row in rows)
        live.prompt_tokens += sum(row.prompt_tokens or 0 for row in rows if row.sample == 0)

    def _keep_time(self) -> None:
        """The first checkpoint comes with the first rows, later ones at their time."""
        if self.live.rows and time.monotonic() >= self._due:
            self._note()

    def _note(self) -> None:
        self._on_record = self.checkpoint()
        self._due = time.monotonic() + self.checkpoint_seconds
