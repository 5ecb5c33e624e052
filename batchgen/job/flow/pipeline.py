"""Three threads at work and the main thread watching: signals, progress, failures, the way out.

ReaderStage ──ready──> EngineStage (the engine) ──finished──> WriterStage (the ledger's appends)
     └───────────────────error rows─────────────────────────────┘
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from batchgen.job.flow.channel import Cancelled, Channel
from batchgen.job.flow.engine_stage import EngineStage
from batchgen.job.flow.outbox import Outcome
from batchgen.job.flow.progress import Reporter
from batchgen.job.flow.reader_stage import ReaderStage
from batchgen.job.flow.writer_stage import WriterStage
from batchgen.job.stopping.signals import STAGE_THREADS, Stop

__all__ = ["Pipeline"]

_LOOK_EVERY_S = 0.1
_SHARE_FOR_WRITING = 0.25
"""Of the grace: an engine that is still in its step by then is left behind."""


class _StageThread(threading.Thread):
    """A thread that keeps its failure. Daemon: one stuck in a model load must not hold the exit."""

    def __init__(self, name: str, work: Callable[[], None], ended: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._ended = ended
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except Cancelled:
            pass
        except BaseException as error:
            self.failure = error
        finally:
            self._ended.set()


class Pipeline:
    """Runs reader, engine and writer to their end, or winds them down on a signal or a failure."""

    def __init__(
        self,
        reader: ReaderStage,
        engine: EngineStage,
        writer: WriterStage,
        finished: Channel[list[Outcome]],
        *,
        stop: Stop,
        grace: float,
        reporter: Reporter,
    ) -> None:
        self._reader_stage, self._engine_stage = reader, engine
        self._ended = threading.Event()
        works = (reader.run, engine.run, writer.run)
        self._reader, self._engine, self._writer = (
            _StageThread(name, work, self._ended)
            for name, work in zip(STAGE_THREADS, works, strict=True)
        )
        self._finished = finished
        self._stop = stop
        self._grace = grace
        self._reporter = reporter
        self._deadline: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether the run ended before its input did."""
        return self._deadline is not None or self._engine_stage.cut_short

    def run(self) -> None:
        """Work to the end. Raises the first stage's failure, after what was finished is written."""
        try:
            self._run()
        finally:
            self._reporter.close()
        for stage in (self._writer, self._reader, self._engine):
            if stage.failure is not None:
                raise stage.failure

    def _run(self) -> None:
        for stage in (self._writer, self._engine, self._reader):
            stage.start()
        while self._engine.is_alive() or self._reader.is_alive():
            self._look()
            if self._overdue():
                self._engine_stage.save_inflight_of_stuck_step()
                break
        self._finished.close()
        while self._writer.is_alive() and not self._late():
            self._look()

    def _look(self) -> None:
        self._ended.wait(_LOOK_EVERY_S)
        self._ended.clear()
        self._reporter.update()
        failed = any(stage.failure for stage in (self._reader, self._engine, self._writer))
        if self._deadline is None and (self._stop.requested or failed):
            self._wind_down()

    def _wind_down(self) -> None:
        self._grace = self._stop.grace(self._grace)
        self._deadline = time.monotonic() + self._grace
        self._reader_stage.stop()
        self._engine_stage.stop()

    def _overdue(self) -> bool:
        """Whether to leave without the engine: it is still loading, or its time is over."""
        if self._deadline is None:
            return False
        return self._engine_stage.loading or self._late(_SHARE_FOR_WRITING * self._grace)

    def _late(self, before: float = 0.0) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline - before
