"""The engine's thread: admit prepared rows, step, hand finished rows on. It waits for nobody.

    Feed --chunks--> [window of waiting rows | engine] --finished rows--> Writer

The window holds more rows than the engine runs, so that the engine can order them (long outputs
first), and is bounded in rows and in prompt tokens, so that memory does not grow with the input.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from batchgen.engine.request import Completion, Engine, EngineStats, FinishReason
from batchgen.errors import RowError
from batchgen.job.channel import Cancelled, Channel
from batchgen.job.pace import Pace
from batchgen.job.progress import Live
from batchgen.job.requests import SAMPLE_BITS, FailedRow, PreparedRow, row_and_sample

__all__ = ["Drive", "FinishedRow", "Outcome"]

WINDOW_ROWS = 2048
WINDOW_ROWS_PER_SEQUENCE = 4
WINDOW_TOKENS = 2_000_000
_HAND_OVER_ROWS = 256
_HAND_OVER_S = 0.1
_STATS_EVERY_S = 0.2


@dataclass(slots=True)
class FinishedRow:
    """A row all of whose samples are complete, in order of sample."""

    prepared: PreparedRow
    completions: list[Completion]


Outcome = FinishedRow | FailedRow


@dataclass(slots=True)
class _Waiting:
    prepared: PreparedRow
    completions: dict[int, Completion] = field(default_factory=dict)
    begun: bool = False


class Drive:
    """Runs one engine from loading to the last row. One thread calls `run`; `stop` may be called
    from another one."""

    def __init__(
        self,
        load_engine: Callable[[], Engine],
        ready: Channel[list[PreparedRow]],
        finished: Channel[list[Outcome]],
        *,
        begin: Callable[[list[int]], None],
        live: Live,
        pace: Pace | None = None,
    ) -> None:
        self._load_engine = load_engine
        self._ready = ready
        self._finished = finished
        self._begin = begin
        self._live = live
        self._pace = pace
        self._engine: Engine | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._waiting_tokens = 0
        self._outbox: list[Outcome] = []
        self._next_hand_over = 0.0
        self._next_stats = 0.0
        self._stopping = False
        self.cut_short = False
        """Rows were left for another run, since they could not finish before the deadline."""
        self.load_s = 0.0
        self.engine_s = 0.0
        self.stats = EngineStats()
        self.inflight: dict[tuple[int, int], list[int]] = {}

    @property
    def loading(self) -> bool:
        """Whether the engine is not there yet."""
        return self._engine is None

    def stop(self) -> None:
        """End after the step under way; `inflight` then holds what unfinished rows generated."""
        self._stopping = True
        self._ready.cancel()

    def save_inflight_of_stuck_step(self) -> None:
        """From another thread, when a step outlasts the grace: keep what is known by now."""
        engine = self._engine
        if engine is not None and not self.inflight:
            with suppress(RuntimeError):  # the step ended meanwhile: the thread saves by itself
                self._save_inflight(engine)

    def run(self) -> None:
        """Serve every row of `ready`. The engine is loaded once the first row needs it."""
        try:
            first = self._ready.get()
            if first is not None:
                self._serve(first)
        except Cancelled:
            pass
        finally:
            self._ready.cancel()

    def _serve(self, first: list[PreparedRow]) -> None:
        started = time.monotonic()
        engine = self._load_engine()
        self.load_s = time.monotonic() - started
        self._engine = engine
        self._live.stage = "running"
        try:
            self._loop(engine, first)
        finally:
            self.engine_s = time.monotonic() - started - self.load_s
            self.stats = engine.stats()
            engine.close()

    def _loop(self, engine: Engine, first: list[PreparedRow]) -> None:
        engine.on_admission = self._note_begun
        most_rows = max(WINDOW_ROWS, WINDOW_ROWS_PER_SEQUENCE * engine.max_num_seqs)
        self._admit(engine, first)
        while not self._stopping:
            self._fill(engine, most_rows)
            if not self._waiting:
                break
            self._settle(engine, engine.step())
            self._report(engine)
        if self._stopping:
            self._save_inflight(engine)
        self._hand_over()

    def _fill(self, engine: Engine, most_rows: int) -> None:
        """Admit chunks while the window has room; wait for one only when there is nothing to do."""
        while len(self._waiting) < most_rows and self._waiting_tokens < WINDOW_TOKENS:
            if not self._waiting:
                self._hand_over()
            chunk = self._ready.get(timeout=0 if self._waiting else None)
            if chunk is None:
                return
            self._admit(engine, chunk)

    def _admit(self, engine: Engine, chunk: list[PreparedRow]) -> None:
        for prepared in chunk:
            try:
                for request in prepared.requests:
                    engine.add(request)
            except RowError as error:
                self._refuse(engine, prepared, error)
                continue
            self._waiting[prepared.row.index] = _Waiting(prepared)
            self._waiting_tokens += prepared.num_prompt_tokens

    def _note_begun(self, identifiers: list[int]) -> None:
        """Journal rows that leave the window, before the step that computes them."""
        begun = []
        for identifier in identifiers:
            index = identifier >> SAMPLE_BITS
            waiting = self._waiting.get(index)
            if waiting is not None and not waiting.begun:
                waiting.begun = True
                begun.append(index)
        if begun:
            self._begin(sorted(begun))

    def _refuse(self, engine: Engine, prepared: PreparedRow, error: RowError) -> None:
        """A row the engine will not take: samples already added are forgotten."""
        for request in prepared.requests:
            engine.abort(request.request_id)
        self._outbox.append(_failed(prepared, error))

    def _settle(self, engine: Engine, completions: list[Completion]) -> None:
        """Collect samples; a row goes on when its last sample is there or one of them failed."""
        for completion in completions:
            index, sample = row_and_sample(completion.request_id)
            waiting = self._waiting.get(index)
            if waiting is None:
                continue  # a sibling sample already failed the row
            prepared = waiting.prepared
            if self._pace is not None:
                self._pace.note(completion)
            if completion.finish_reason is FinishReason.ERROR:
                self._fail(engine, prepared, completion)
            elif len(prepared.requests) == 1:
                self._forget(prepared)
                self._outbox.append(FinishedRow(prepared, [completion]))
            else:
                self._collect(waiting, sample, completion)
        now = time.monotonic()
        if len(self._outbox) >= _HAND_OVER_ROWS or now >= self._next_hand_over:
            self._hand_over()
            self._next_hand_over = now + _HAND_OVER_S

    def _collect(self, waiting: _Waiting, sample: int, completion: Completion) -> None:
        waiting.completions[sample] = completion
        num_samples = len(waiting.prepared.requests)
        if len(waiting.completions) == num_samples:
            self._forget(waiting.prepared)
            ordered = [waiting.completions[number] for number in range(num_samples)]
            self._outbox.append(FinishedRow(waiting.prepared, ordered))

    def _fail(self, engine: Engine, prepared: PreparedRow, completion: Completion) -> None:
        self._forget(prepared)
        for request in prepared.requests:
            if request.request_id != completion.request_id:
                engine.abort(request.request_id)
        code, message = completion.error_code, completion.error_message
        assert code is not None
        self._outbox.append(_failed(prepared, RowError(code, message or str(code))))

    def _forget(self, prepared: PreparedRow) -> None:
        del self._waiting[prepared.row.index]
        self._waiting_tokens -= prepared.num_prompt_tokens

    def _hand_over(self) -> None:
        if self._outbox:
            self._finished.put(self._outbox)
            self._outbox = []

    def _report(self, engine: Engine) -> None:
        now = time.monotonic()
        if now < self._next_stats:
            return
        self._next_stats = now + _STATS_EVERY_S
        stats = engine.stats()
        self._live.generated_tokens = stats.output_tokens
        self._live.running = stats.num_running
        if self._pace is not None:
            self._leave_hopeless(engine, self._pace)

    def _leave_hopeless(self, engine: Engine, pace: Pace) -> None:
        """Take rows that wait and cannot finish in time back from the engine; admit no more."""
        waiting = [w.prepared for w in self._waiting.values() if not w.begun]
        hopeless = [p for p in waiting if not pace.fits(p.row.params)]
        if not hopeless:
            return
        self.cut_short = True
        self._ready.cancel()
        for prepared in hopeless:
            for request in prepared.requests:
                engine.abort(request.request_id)
            self._forget(prepared)

    def _save_inflight(self, engine: Engine) -> None:
        """Tokens of unfinished rows. A finished sample of an unfinished row gives all but its last
        token, so that a resume ends it the same way at once."""
        for identifier, token_ids in engine.unfinished_outputs().items():
            if token_ids:
                self.inflight[row_and_sample(identifier)] = list(token_ids)
        for index, waiting in self._waiting.items():
            for sample, completion in waiting.completions.items():
                if len(completion.token_ids) > 1:
                    self.inflight[index, sample] = completion.token_ids[:-1]


def _failed(prepared: PreparedRow, error: RowError) -> FailedRow:
    return FailedRow(prepared.row, error, prepared.prompt, prepared.num_prompt_tokens)
