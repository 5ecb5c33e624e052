"""One call of `LLM.generate`: rows are pulled, run and given back while somebody asks for results.

    user's rows --pull--> prepared rows ==ready==> EngineStage on the engine's thread
    user's loop <--next-- results      <==finished==

Rows are pulled and results made in the caller's thread, inside `next`. Rows pulled and not given
back yet are in flight, at most `max_in_flight`: a caller that stops asking stops the pulling.
"""

from __future__ import annotations

import sys
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NoReturn

from batchgen.api.result import Result, result_of
from batchgen.api.source import NOT_YET, Source
from batchgen.engine.request import Engine
from batchgen.errors import BatchgenError
from batchgen.job.flow.channel import Channel
from batchgen.job.flow.engine_stage import EngineStage, EngineStageOptions
from batchgen.job.flow.outbox import Outcome
from batchgen.job.flow.progress import Live
from batchgen.job.flow.results import Results
from batchgen.job.rows import InputRow
from batchgen.job.text.prepared import PreparedRow
from batchgen.job.text.requests import Requests

__all__ = ["Stages", "Stream"]

_CHUNK_ROWS = 64
_CHUNK_S = 0.05
"""So long rows are gathered, where they come slowly, before the engine gets them."""
_MOST_TOKENS = 1_000_000
"""Of prompts in flight: a row may be long."""
_WAIT_S = 0.1
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Stages:
    """What a call works with. `begin`: has a stream's work done on the engine's thread, or raises
    UsageError while another one has it; `num_busy`: rows that keep the engine busy."""

    read: Callable[[Any], InputRow]
    requests: Requests
    results: Results
    engine: Callable[[], Engine]
    begin: Callable[[Stream, Callable[[], None]], Future[None]]
    num_busy: int
    row_timeout: float | None = None


class Stream(Iterator[Result]):
    """Results of one call, in order or as they finish; also a context manager.

    `close` ends the call early: what is in flight is given up and the engine is free after the
    step under way. An exception of the user's rows comes after the results of the rows before it.
    """

    def __init__(
        self, stages: Stages, source: Source, *, in_order: bool, max_in_flight: int
    ) -> None:
        self._stages = stages
        self._source = source
        self._in_order = in_order
        self.max_in_flight = max_in_flight
        self._ready: Channel[list[PreparedRow]] = Channel(sys.maxsize)
        self._finished: Channel[list[Outcome]] = Channel(sys.maxsize)
        self.engine_stage = EngineStage(
            stages.engine,
            self._ready,
            self._finished,
            begin=lambda rows: None,
            live=Live(),
            options=EngineStageOptions(row_timeout=stages.row_timeout),
        )
        self._work: Future[None] | None = None
        self._no_more_rows = False
        self._failure: BaseException | None = None
        self._in_engine: dict[int, int] = {}  # index -> tokens of the prompt
        self._num_tokens = 0
        self._source_is_late = False
        self._waiting: dict[int, list[Result]] = {}  # finished rows whose turn has not come
        self._deliverable: deque[Result] = deque()
        self.num_in_flight = 0  # rows that were pulled and not given back yet
        self.num_given = 0
        self._next_index = 0
        self._closed = False
        self.on_end: Callable[[], None] = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether it has begun, and there may be more."""
        return self._work is not None and not self._closed

    def __next__(self) -> Result:
        """The next result; waits for it, and pulls rows meanwhile."""
        if self._closed:
            raise StopIteration
        try:
            return self._next()
        except BaseException:
            self.stop()
            raise

    def __getitem__(self, place: object) -> NoReturn:
        raise TypeError("results come one by one: take list(llm.generate(...))[0], or a loop")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.stop()

    def stop(self) -> None:
        """End without waiting for the step under way."""
        if not self._closed:
            self._closed = True
            self.engine_stage.stop()
            self._finished.cancel()
            self.on_end()

    def close(self) -> None:
        """End, and wait until the engine is free."""
        self.stop()
        if self._work is not None:
            self._work.exception()

    def _begin(self) -> None:
        stage, finished = self.engine_stage, self._finished

        def work() -> None:  # knows nothing of the stream, which may be forgotten meanwhile
            try:
                stage.run()
            finally:
                finished.close()

        self._work = self._stages.begin(self, work)

    def _next(self) -> Result:
        if self._work is None:
            self._begin()
        while not self._closed:
            self._collect(0)
            if self._wants_rows:
                self._pull()
            if self._deliverable:
                return self._delivered()
            if self._no_more_rows and not self.num_in_flight:
                self._end()
            if not self._wants_rows or self._source_is_late:
                self._collect(_POLL_S if self._source_is_late else _WAIT_S)
        raise StopIteration  # closed by another thread

    def _end(self) -> None:
        """Nothing is left: the way out, or what the user's rows raised."""
        if self._failure is not None:
            raise self._failure
        raise StopIteration

    @property
    def _wants_rows(self) -> bool:
        """Whether there is room, and reason to pull before what can be given back is."""
        if self._no_more_rows or self.num_in_flight >= self.max_in_flight:
            return False
        if self._num_tokens >= _MOST_TOKENS:
            return False
        return not self._deliverable or len(self._in_engine) < self._stages.num_busy

    def _pull(self) -> None:
        """Some rows, and into the engine with them."""
        rows = self._gathered()
        if self._no_more_rows:
            self._last(rows)
        elif rows:
            self._prepare(rows)

    def _last(self, rows: list[InputRow]) -> None:
        if rows:
            self._prepare(rows)
        self._ready.close()

    def _gathered(self) -> list[InputRow]:
        rows: list[InputRow] = []
        until = time.monotonic() + _CHUNK_S
        room = min(_CHUNK_ROWS, self.max_in_flight - self.num_in_flight)
        idle = not self.num_in_flight and not self._deliverable
        self._source_is_late = False
        while len(rows) < room and (not rows or time.monotonic() < until):
            row = self._one(wait=idle and not rows)
            if row is None:
                break
            rows.append(row)
        return rows

    def _one(self, *, wait: bool) -> InputRow | None:
        """The next row; None where there is none, or not yet."""
        try:
            given = self._source.take(wait=wait)
            if given is not NOT_YET:
                return self._stages.read(given)
            self._source_is_late = True
        except StopIteration:
            self._no_more_rows = True
        except (Exception, CancelledError) as error:
            self._no_more_rows, self._failure = True, error
        return None

    def _prepare(self, rows: list[InputRow]) -> None:
        self.num_in_flight += len(rows)
        ready, failed = self._stages.requests.prepare(rows)
        for prepared in ready:
            self._in_engine[prepared.row.index] = prepared.num_prompt_tokens
            self._num_tokens += prepared.num_prompt_tokens
        if failed:
            self._take(list(failed))
        if ready:
            self._ready.put(ready)

    def _collect(self, seconds: float) -> None:
        """What the engine finished by now, or in so many seconds. Raises what its thread raised."""
        batch = self._finished.get(seconds)
        while batch is not None:
            self._take(batch)
            batch = self._finished.get(0)
        if self._finished.drained and self._in_engine and not self._deliverable:
            self._tell_end()

    def _tell_end(self) -> None:
        """The engine's thread ended before its rows did."""
        if self._work is not None and not self._closed:
            self._work.result()
            raise BatchgenError("the engine ended before its rows did", "make another LLM")

    def _take(self, outcomes: list[Outcome]) -> None:
        for row in self._stages.results.output_rows(outcomes):
            self._waiting.setdefault(row.index, []).append(result_of(row))
            self._num_tokens -= self._in_engine.pop(row.index, 0)
        if self._in_order:
            while self._next_index in self._waiting:
                self._deliverable += self._waiting.pop(self._next_index)
                self._next_index += 1
            return
        for results in self._waiting.values():
            self._deliverable += results
        self._waiting.clear()

    def _delivered(self) -> Result:
        result = self._deliverable.popleft()
        if not self._deliverable or self._deliverable[0].index != result.index:
            self.num_in_flight -= 1
            self.num_given += 1
        return result
