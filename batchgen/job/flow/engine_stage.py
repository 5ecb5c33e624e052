"""The engine's thread: admit prepared rows, step, hand finished rows on. It waits for nobody.

    ReaderStage --chunks--> [window of waiting rows | engine] --finished rows--> WriterStage

The window holds more rows than the engine runs, so that the engine can order them (long outputs
first), and is bounded in rows and in prompt tokens, so that memory does not grow with the input.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

from batchgen.engine.config import WAITING_PER_SEQUENCE
from batchgen.engine.request import Completion, Engine, FinishReason
from batchgen.engine.stats import EngineStats
from batchgen.errors import ErrorCode, RowError
from batchgen.job.flow.channel import Cancelled, Channel
from batchgen.job.flow.outbox import FinishedRow, Outbox, Outcome
from batchgen.job.flow.pace import Pace
from batchgen.job.flow.progress import Live
from batchgen.job.flow.quarantine import Suspects
from batchgen.job.flow.window import WaitingRow, Window
from batchgen.job.text.prepared import PreparedRow, failed, row_and_sample

__all__ = ["EngineStage", "EngineStageOptions"]

WINDOW_ROWS = 2048
WINDOW_TOKENS = 2_000_000
WINDOW_TOKENS_PER_SEQUENCE = 16_384
"""Rows that begin alike are computed together only where they wait together."""
WINDOW_CARRIED = 256 << 20
_STATS_EVERY_S = 0.2
_DURABLE_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class EngineStageOptions:
    """What is off in most runs. `row_timeout`: seconds in the engine that a row may take; `begun`
    is around all of it. `pace` is given where there is a deadline, `suspects` where earlier runs
    died; `is_durable` then says whether a row that was handed on is safe from the next death.
    """

    pace: Pace | None = None
    row_timeout: float | None = None
    suspects: Suspects | None = None
    is_durable: Callable[[int], bool] = lambda index: True
    begun: Callable[[], AbstractContextManager[None]] = nullcontext


class EngineStage:
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
        options: EngineStageOptions | None = None,
    ) -> None:
        self._load_engine = load_engine
        self._ready = ready
        self._begin = begin
        self._live = live
        self._options = options or EngineStageOptions()
        self._engine: Engine | None = None
        self._waiting = Window()
        self._outbox = Outbox(finished)
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
            with self._options.begun():
                first = self._ready.get()
                if first is not None:
                    self._serve(first)
        except Cancelled:
            pass
        finally:
            self._ready.cancel()

    def _serve(self, first: list[PreparedRow]) -> None:
        started, live = time.monotonic(), self._live
        engine = self._load_engine()
        live.stage, live.began = "running", time.monotonic()
        self.load_s, self._engine = live.began - started, engine
        try:
            self._loop(engine, first)
        finally:
            live.ended = time.monotonic()
            self.engine_s, self.stats = live.ended - live.began, engine.stats()
            live.running, live.generated_tokens = 0, self.stats.output_tokens
            engine.close()

    def _loop(self, engine: Engine, first: list[PreparedRow]) -> None:
        engine.on_admission = self._note_begun
        most_rows = max(WINDOW_ROWS, WAITING_PER_SEQUENCE * engine.max_num_seqs)
        self._admit(engine, first)
        self._run_dry(engine, most_rows)
        if self._options.suspects is not None:
            self._try_suspects(engine, self._options.suspects)
        if self._stopping:
            self._save_inflight(engine)
        self._outbox.hand_over()

    def _run_dry(self, engine: Engine, most_rows: int) -> None:
        """Step until nothing waits and nothing more comes."""
        while not self._stopping:
            self._fill(engine, most_rows)
            if not self._waiting:
                break
            self._settle(engine, engine.step())
            self._report(engine)

    def _try_suspects(self, engine: Engine, suspects: Suspects) -> None:
        """Run rows that may kill the process, group by group, each durable before the next."""
        for group in suspects.groups():
            self._outbox.hand_over()
            self._wait_until_durable()
            if self._stopping or self.cut_short:
                return
            self._add(engine, group)
            self._run_dry(engine, len(group))

    def _wait_until_durable(self) -> None:
        last = self._outbox.last
        while last is not None and not self._stopping and not self._options.is_durable(last):
            time.sleep(_DURABLE_POLL_S)

    def _fill(self, engine: Engine, most_rows: int) -> None:
        """Admit chunks while the window has room; wait for one only when there is nothing to do."""
        while self._has_room(engine, most_rows):
            if not self._waiting:
                self._outbox.hand_over()
            chunk = self._ready.get(timeout=0 if self._waiting else None)
            if chunk is None:
                return
            self._admit(engine, chunk)

    def _has_room(self, engine: Engine, most_rows: int) -> bool:
        """Rows that carry much to the output wait in small numbers, but none of the engine's
        places stays empty for that."""
        rows = self._waiting
        if rows.carried >= WINDOW_CARRIED and len(rows) >= engine.max_num_seqs:
            return False
        most_tokens = max(WINDOW_TOKENS, WINDOW_TOKENS_PER_SEQUENCE * engine.max_num_seqs)
        return len(rows) < most_rows and rows.num_tokens < most_tokens

    def _admit(self, engine: Engine, chunk: list[PreparedRow]) -> None:
        if self._options.suspects is not None:
            chunk, given_up = self._options.suspects.take_from(chunk)
            self._outbox.add(*given_up)
        self._add(engine, chunk)

    def _add(self, engine: Engine, chunk: list[PreparedRow]) -> None:
        for prepared in chunk:
            try:
                for request in prepared.requests:
                    engine.add(request)
            except RowError as error:
                self._refuse(engine, prepared, error)
                continue
            self._waiting.add(prepared)

    def _note_begun(self, identifiers: list[int]) -> None:
        """Journal rows that leave the window, before the step that computes them."""
        begun = self._waiting.begin(identifiers)
        if begun:
            self._begin(begun)

    def _refuse(self, engine: Engine, prepared: PreparedRow, error: RowError) -> None:
        """A row the engine will not take: samples already added are forgotten."""
        _abort(engine, prepared)
        self._outbox.add(failed(prepared, error))

    def _settle(self, engine: Engine, completions: list[Completion]) -> None:
        """Collect samples; a row goes on when its last sample is there or one of them failed."""
        pace = self._options.pace
        for completion in completions:
            index, sample = row_and_sample(completion.request_id)
            waiting = self._waiting.get(index)
            if waiting is None:
                continue  # a sibling sample already failed the row
            prepared = waiting.prepared
            if pace is not None:
                pace.note(completion)
            if completion.finish_reason is FinishReason.ERROR:
                self._fail(engine, prepared, completion)
            elif len(prepared.requests) == 1:
                self._waiting.remove(prepared)
                self._outbox.add(FinishedRow(prepared, [completion]))
            else:
                self._collect(waiting, sample, completion)
        self._outbox.hand_over_some()

    def _collect(self, waiting: WaitingRow, sample: int, completion: Completion) -> None:
        waiting.completions[sample] = completion
        num_samples = len(waiting.prepared.requests)
        if len(waiting.completions) == num_samples:
            self._waiting.remove(waiting.prepared)
            ordered = [waiting.completions[number] for number in range(num_samples)]
            self._outbox.add(FinishedRow(waiting.prepared, ordered))

    def _fail(self, engine: Engine, prepared: PreparedRow, completion: Completion) -> None:
        self._waiting.remove(prepared)
        _abort(engine, prepared)
        code, message = completion.error_code, completion.error_message
        assert code is not None
        self._outbox.add(failed(prepared, RowError(code, message or str(code))))

    def _report(self, engine: Engine) -> None:
        if time.monotonic() < self._next_stats:
            return
        self._next_stats = time.monotonic() + _STATS_EVERY_S
        stats = engine.stats()
        live = self._live
        live.generated_tokens, live.running = stats.output_tokens, stats.num_running
        live.read, live.device = self._waiting.read(stats), stats.device
        if self._options.pace is not None:
            self._leave_hopeless(engine, self._options.pace)
        if self._options.row_timeout is not None:
            self._time_out(engine, self._options.row_timeout)

    def _time_out(self, engine: Engine, seconds: float) -> None:
        """Give up rows that have been in the engine for too long."""
        late = self._waiting.begun_before(time.monotonic() - seconds)
        outputs = engine.unfinished_outputs() if late else {}
        for prepared in late:
            known = sum(len(outputs.get(r.request_id, ())) for r in prepared.requests)
            text = f"unfinished after {seconds:g} s (--row-timeout); tokens generated: {known:,}"
            self._waiting.remove(prepared)
            self._refuse(engine, prepared, RowError(ErrorCode.ROW_TIMEOUT, text))

    def _leave_hopeless(self, engine: Engine, pace: Pace) -> None:
        """Take rows that wait and cannot finish in time back from the engine; admit no more."""
        hopeless = [p for p in self._waiting.not_begun() if not pace.fits(p.row.params)]
        if not hopeless:
            return
        self.cut_short = True
        self._ready.cancel()
        for prepared in hopeless:
            _abort(engine, prepared)
            self._waiting.remove(prepared)

    def _save_inflight(self, engine: Engine) -> None:
        for identifier, token_ids in engine.unfinished_outputs().items():
            if token_ids:
                self.inflight[row_and_sample(identifier)] = list(token_ids)
        self.inflight |= self._waiting.finished_samples()


def _abort(engine: Engine, prepared: PreparedRow) -> None:
    for request in prepared.requests:
        engine.abort(request.request_id)
