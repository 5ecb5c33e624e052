"""The engine's loop: schedule, launch, deliver. Token ids in, token ids out.

`depth` steps are in flight while the next is prepared: 0 on a CPU (a step is over when `execute`
returns), 1 on a GPU (step n + 1 is scheduled and launched before the tokens of n are read).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from batchgen.engine import failures
from batchgen.engine.bounds import StepClock
from batchgen.engine.execution.step_runner import StepRunner
from batchgen.engine.memory import peak_memory_bytes
from batchgen.engine.prefix.folding import Folding
from batchgen.engine.request import Completion, FinishReason, Request, Timings
from batchgen.engine.run.prompt_check import with_checked_prompt
from batchgen.engine.run.recovery import Recovery
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput
from batchgen.engine.stats import EngineStats
from batchgen.startup import timeline

__all__ = ["LLMEngine"]

_logger = logging.getLogger(__name__)


class LLMEngine:
    """`request.Engine` over a model. Made by `factory.load_engine`; single-threaded."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: StepRunner,
        *,
        max_model_len: int,
        vocab_size: int,
        eos_token_ids: tuple[int, ...] = (),
        depth: int = 0,
        device: str = "",
        fold: bool = True,
        on_device: AbstractContextManager[object] | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self.max_model_len = max_model_len
        """Most tokens, prompt and output, of one sequence."""
        self._vocab_size = vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)
        self._depth, self._on_device = depth, on_device or nullcontext()
        self._sequences: dict[int, Sequence] = {}
        self._folding = Folding(enabled=fold)
        self._ended_at_once: list[Sequence] = []
        self._in_flight: deque[tuple[ScheduledStep, Any]] = deque()
        self._stats = EngineStats(device=device)
        self._clock = StepClock(self._stats)
        self._recovery = Recovery(scheduler, runner, self._stats, self._deliver)
        self.on_admission: Callable[[list[int]], None] | None = None

    @property
    def max_num_seqs(self) -> int:
        """Most sequences in one step."""
        return self._scheduler.max_num_seqs

    @property
    def num_unfinished(self) -> int:
        """Requests added and neither returned nor aborted."""
        return len(self._sequences) + len(self._folding)

    def add(self, request: Request) -> None:
        """Queue a request. Raises RowError: prompt_too_long, empty_prompt, invalid_row."""
        if request.request_id in self._sequences or request.request_id in self._folding:
            raise ValueError(f"request {request.request_id} is not finished yet")
        request = with_checked_prompt(request, self.max_model_len, self._vocab_size)
        now = time.monotonic()
        if self._folding.join(request, now):
            return
        sequence = Sequence(
            request,
            min(request.most_tokens, self.max_model_len),
            self._eos_token_ids,
            Timings(enqueued=now),
            device_counts=getattr(self._runner, "COUNTS_TOKENS", False),
        )
        self._sequences[request.request_id] = sequence
        sequence.check_stop()
        if sequence.is_finished:  # an earlier run had generated all of it
            self._ended_at_once.append(sequence)
        else:
            self._scheduler.add(sequence)

    def step(self) -> list[Completion]:
        """Run one iteration; the requests that finished with it."""
        started = time.monotonic()
        finished, self._ended_at_once = self._ended_at_once, []
        with self._on_device:
            finished += self._advance()
        now = time.monotonic()
        self._stats.step_seconds += now - started
        wanted = [s for s in finished if self._sequences.get(s.request.request_id) is s]
        return [completion for s in wanted for completion in self._complete(s, now)]

    def abort(self, request_id: int) -> None:
        """Forget an unfinished request; its blocks return when launched steps are done."""
        heir = self._folding.leave(request_id)
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None and heir is not None:  # others still want its answer
            sequence.request, sequence.timings.enqueued = heir
            self._sequences[sequence.request.request_id] = sequence
        elif sequence is not None:
            self._scheduler.abort(sequence)

    def unfinished_outputs(self) -> dict[int, list[int]]:
        """Known tokens of each unfinished request; those in flight are generated again later."""
        known = {i: list(s.output_token_ids) for i, s in self._sequences.items()}
        return known | self._folding.outputs(known)

    def stats(self) -> EngineStats:
        """Counters so far; the same object each time."""
        self._stats.num_waiting = len(self._scheduler.waiting)
        self._stats.num_running = len(self._sequences) - self._stats.num_waiting
        self._stats.preemptions = self._scheduler.num_preemptions
        self._stats.folded_rows = self._folding.num_folded
        self._stats.peak_memory_bytes = peak_memory_bytes()
        return self._stats

    def forget_prefixes(self) -> None:
        """What was computed before is computed again: for measurements."""
        self._scheduler.block_manager.forget_all()

    def close(self) -> None:
        """Forget everything, after the steps in flight; on a CPU the model too."""
        for request_id in list(self.unfinished_outputs()):
            self.abort(request_id)
        while self._in_flight:
            self._collect_oldest()
        if not self._depth:  # a GPU's memory is nobody else's, and giving it back takes a while
            self._runner.release()

    def _advance(self) -> list[Sequence]:
        step = self._scheduler.schedule()
        if not step:
            return self._collect_oldest() if self._in_flight else self._expect_idle()
        self._note_admissions(step)
        finished = self._launch(step)
        while len(self._in_flight) > self._depth:
            finished += self._collect_oldest()
        return finished

    def _launch(self, step: ScheduledStep) -> list[Sequence]:
        started = time.monotonic()
        try:
            self._in_flight.append((step, self._runner.execute(step)))
            if not self._depth:  # a CPU: it is computed by now
                self._clock.on_device(started)
            return []
        except Exception as error:
            failure = failures.without_frames(error)
        finished = []
        while self._in_flight:
            finished += self._collect_oldest()
        return finished + self._recovery.recover(step, failure)

    def _collect_oldest(self) -> list[Sequence]:
        step, handle = self._in_flight.popleft()
        started = time.monotonic()
        try:
            output = self._runner.collect(handle)
            self._clock.on_device(started)
        except Exception as error:
            failure = failures.without_frames(error)
        else:
            return self._deliver(step, output)
        while self._in_flight:
            self._scheduler.requeue(self._in_flight.pop()[0])
        return self._recovery.recover(step, failure)

    def _deliver(self, step: ScheduledStep, output: StepOutput) -> list[Sequence]:
        now = time.monotonic()
        self._stats.num_steps += 1
        self._clock.delivered(now, step.total_tokens, len(step.sampled))
        self._stats.shared_read_tokens += output.shared_read_tokens
        self._recovery.note_good_step()
        is_first = not self._stats.output_tokens
        finished = self._scheduler.update(step, output)
        self._stats.output_tokens += len(step.sampled) - step.num_ignored
        for sequence in step.first:
            if not sequence.timings.first_token and sequence.error_code is None:
                sequence.timings.first_token = now
        if is_first and self._stats.output_tokens and timeline.mark(timeline.FIRST_TOKEN):
            _logger.info("start-up, in seconds: %s", timeline.text())
        return finished

    def _note_admissions(self, step: ScheduledStep) -> None:
        now = time.monotonic()
        new = [sequence for sequence in step.admitted if not sequence.timings.first_scheduled]
        for sequence in new:
            sequence.timings.first_scheduled = now
            self._stats.prompt_tokens += sequence.num_prompt_tokens
            self._stats.cached_tokens += sequence.num_cached_tokens
        begun = self._folding.begun([sequence.request.request_id for sequence in new])
        if begun and self.on_admission is not None:
            self.on_admission(begun)

    def _expect_idle(self) -> list[Sequence]:
        if self._scheduler.waiting or self._scheduler.running:
            raise RuntimeError(f"{self.num_unfinished} requests wait, and none can be scheduled")
        return []

    def _complete(self, sequence: Sequence, now: float) -> list[Completion]:
        del self._sequences[sequence.request.request_id]
        sequence.timings.finished = now
        completion = Completion(
            request_id=sequence.request.request_id,
            token_ids=sequence.output_token_ids,
            finish_reason=sequence.finish_reason or FinishReason.ERROR,
            stop_reason=sequence.stop_reason,
            error_code=sequence.error_code,
            error_message=sequence.error_message,
            logprobs=sequence.logprobs if sequence.request.params.logprobs is not None else None,
            top_logprobs=sequence.top_logprobs if sequence.request.params.top_logprobs else None,
            target_logprobs=sequence.target_logprobs or None,
            target_tops=sequence.target_tops or None,
            timings=sequence.timings,
            preemptions=sequence.num_preemptions,
            cached_tokens=sequence.num_cached_tokens,
            ends_with_stop_token=sequence.ends_with_stop_token,
            is_steered=sequence.is_steered,
        )
        return self._folding.finish(completion)
