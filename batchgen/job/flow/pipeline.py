"""Three threads at work and the main thread watching: signals, progress, failures, the way out.

Feed ──ready──> Drive (owns the engine) ──finished──> Write (owns the ledger's appends)
  └───────────────error rows──────────────────────────┘
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from batchgen.job.flow.channel import Cancelled, Channel
from batchgen.job.flow.engine_thread import Drive, Outcome
from batchgen.job.flow.progress import Reporter
from batchgen.job.flow.reader_thread import Feed
from batchgen.job.flow.signals import Stop
from batchgen.job.flow.writer_thread import Write

__all__ = ["Pipeline"]

_LOOK_EVERY_S = 0.1
_SHARE_FOR_WRITING = 0.25
"""Of the grace: an engine that is still in its step by then is left behind."""


class _Stage(threading.Thread):
    """A thread that keeps its failure. Daemon: one stuck in a model load must not hold the exit."""

    def __init__(self, name: str, work: Callable[[], None], ended: threading.Event) -> None:
        super().__init__(name=f"batchgen-{name}", daemon=True)
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
    """Runs feed, drive and write to their end, or winds them down on a signal or a failure."""

    def __init__(
        self,
        feed: Feed,
        drive: Drive,
        write: Write,
        finished: Channel[list[Outcome]],
        *,
        stop: Stop,
        grace: float,
        reporter: Reporter,
    ) -> None:
        self._feed_object, self._drive_object = feed, drive
        self._ended = threading.Event()
        self._feed = _Stage("reader", feed.run, self._ended)
        self._drive = _Stage("engine", drive.run, self._ended)
        self._write = _Stage("writer", write.run, self._ended)
        self._finished = finished
        self._stop = stop
        self._grace = grace
        self._reporter = reporter
        self._deadline: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether the run ended before its input did."""
        return self._deadline is not None or self._drive_object.cut_short

    def run(self) -> None:
        """Work to the end. Raises the first stage's failure, after what was finished is written."""
        try:
            self._run()
        finally:
            self._reporter.close()
        for stage in (self._write, self._feed, self._drive):
            if stage.failure is not None:
                raise stage.failure

    def _run(self) -> None:
        for stage in (self._write, self._drive, self._feed):
            stage.start()
        while self._drive.is_alive() or self._feed.is_alive():
            self._look()
            if self._overdue():
                self._drive_object.save_inflight_of_stuck_step()
                break
        self._finished.close()
        while self._write.is_alive() and not self._late():
            self._look()

    def _look(self) -> None:
        self._ended.wait(_LOOK_EVERY_S)
        self._ended.clear()
        self._reporter.update()
        failed = any(stage.failure for stage in (self._feed, self._drive, self._write))
        if self._deadline is None and (self._stop.requested or failed):
            self._wind_down()

    def _wind_down(self) -> None:
        self._grace = self._stop.grace(self._grace)
        self._deadline = time.monotonic() + self._grace
        self._feed_object.stop()
        self._drive_object.stop()

    def _overdue(self) -> bool:
        """Whether to leave without the engine: it is still loading, or its time is over."""
        if self._deadline is None:
            return False
        return self._drive_object.loading or self._late(_SHARE_FOR_WRITING * self._grace)

    def _late(self, before: float = 0.0) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline - before
