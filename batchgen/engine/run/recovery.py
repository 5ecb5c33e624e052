"""What a failed step becomes: its rows run again in halves, down to the one that is to blame."""

from __future__ import annotations

import logging
from collections.abc import Callable

from batchgen.causes import first_line
from batchgen.engine import failures
from batchgen.engine.execution.step_runner import StepRunner
from batchgen.engine.memory import release_memory
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput
from batchgen.engine.stats import EngineStats
from batchgen.errors import ErrorCode

__all__ = ["Recovery"]

_logger = logging.getLogger(__name__)
_FEW_TOKENS = 16
"""A sequence that runs out of memory alone, with this few tokens, will not fit at all."""
_MANY_CRASHES = 8
"""Rows that crash one after the other, without a good step between them, are not to blame."""


class Recovery:
    """Of one engine. Rows are independent, so those beside a guilty one lose nothing."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: StepRunner,
        stats: EngineStats,
        deliver: Callable[[ScheduledStep, StepOutput], list[Sequence]],
    ) -> None:
        """`deliver`: takes the output of a step that was run again; who finished with it."""
        self._scheduler, self._runner, self._stats = scheduler, runner, stats
        self._deliver = deliver
        self._full_budget = scheduler.max_num_batched_tokens
        self._num_crashes_in_a_row = 0

    def note_good_step(self) -> None:
        """The engine is not broken."""
        self._num_crashes_in_a_row = 0

    def recover(self, step: ScheduledStep, error: Exception) -> list[Sequence]:
        """Run the rows again, none of whose steps is in flight; who finished. Raises the error
        where the device is lost, or row after row crashes."""
        if failures.is_fatal(error):
            raise error
        if failures.is_out_of_memory(error):
            self._shrink_budget(error)
        if len(step) == 1:
            return self._blame(step, error)
        return [sequence for half in step.split() for sequence in self._run_again(half)]

    def _run_again(self, step: ScheduledStep) -> list[Sequence]:
        try:
            output = self._runner.collect(self._runner.execute(step))
        except Exception as error:
            failure = failures.without_frames(error)
        else:
            return self._deliver(step, output)
        return self.recover(step, failure)

    def _blame(self, step: ScheduledStep, error: Exception) -> list[Sequence]:
        """One row failed alone: with fewer tokens it may still fit, else it ends in an error."""
        sequence = step.sequences[0]
        self._scheduler.requeue(step)
        if sequence.is_finished:
            return []
        out_of_memory = failures.is_out_of_memory(error)
        if out_of_memory and step.total_tokens > _FEW_TOKENS:
            return []
        if not out_of_memory:
            self._count_crash(error)
        code = ErrorCode.OOM if out_of_memory else ErrorCode.ENGINE_CRASH
        sequence.fail(code, f"{type(error).__name__}: {error}")
        self._scheduler.abort(sequence)
        self._scheduler.max_num_batched_tokens = self._full_budget
        return [sequence]

    def _count_crash(self, error: Exception) -> None:
        """Raise where row after row crashes: then the engine is broken, not the rows."""
        self._num_crashes_in_a_row += 1
        if self._num_crashes_in_a_row >= _MANY_CRASHES:
            raise error

    def _shrink_budget(self, error: Exception) -> None:
        scheduler = self._scheduler
        self._stats.oom_events += 1
        scheduler.max_num_batched_tokens = max(1, scheduler.max_num_batched_tokens // 2)
        release_memory()
        text = "out of memory (%s); steps have at most %d tokens from here on"
        _logger.warning(text, first_line(error), scheduler.max_num_batched_tokens)
