"""The process of one device: an engine, driven by messages (`python -m ... FD`, see `wire`).

It ends when it is told to, and when the other end of the socket is gone: nothing it has matters
then. Signals of the terminal and the scheduler are its parent's to answer.
"""

from __future__ import annotations

import os
import queue
import sys
import time
from multiprocessing.connection import Connection

from batchgen.engine.processes.child import leave_signals_to_parent, listen, portable, speak_as
from batchgen.engine.processes.preparing import prepare_engine
from batchgen.engine.processes.wire import (
    Abort,
    Add,
    AskOutputs,
    Failed,
    Load,
    Loaded,
    Outputs,
    Report,
    Wire,
)
from batchgen.engine.request import Completion, Engine, FinishReason, Request
from batchgen.errors import RowError
from batchgen.interpreter import tuned_interpreter
from batchgen.startup import timeline
from batchgen.startup.importing import importing
from batchgen.startup.quick_exit import end_process

__all__ = ["main"]

_REPORT_EVERY_S = 0.2


def main(fd: int) -> None:
    """Load what the first message names, then serve until the parent closes or is gone."""
    leave_signals_to_parent()
    wire = Wire(Connection(fd))
    load: Load = wire.receive()
    timeline.begin(own_process=True)
    speak_as(load.name, load.log_level)
    inbox = listen(wire.receive)
    try:
        with tuned_interpreter(short_turns=True):
            _Worker(_engine(load), wire, inbox).serve()
        end_process(0)
    except Exception as error:
        wire.send(Failed(portable(error)))
        end_process(1)  # not by way of native code that may wait for a GPU


def _engine(load: Load) -> Engine:
    if load.core is not None:
        os.sched_setaffinity(0, {load.core})
    if load.config is None:
        from batchgen.engine.run.echo import EchoEngine

        return EchoEngine(load.max_num_seqs, load.max_model_len)
    prepare_engine(load.config, load.facts)
    with importing:
        from batchgen.engine.run.factory import load_engine

    engine = load_engine(load.config)
    if load.name.startswith("cuda:"):  # it sees that one alone, and calls it cuda:0
        stats = engine.stats()
        stats.device = stats.device.replace("cuda:0", load.name)
    return engine


class _Worker:
    def __init__(self, engine: Engine, wire: Wire, inbox: queue.SimpleQueue[object]) -> None:
        self._engine, self._wire, self._inbox = engine, wire, inbox
        self._done: list[Completion] = []
        self._doomed: dict[int, int] = {}
        self._next_report = 0.0
        engine.on_admission = self._begin
        wire.send(Loaded(engine.max_model_len, engine.max_num_seqs, engine.stats()))

    def serve(self) -> None:
        """Take messages between steps; wait for one where there is nothing to compute."""
        while self._take_messages():
            if self._engine.num_unfinished:
                self._done += self._engine.step()
            self._report()

    def _take_messages(self) -> bool:
        """False: the parent has no more for this process."""
        while True:
            idle = not (self._engine.num_unfinished or self._done)
            try:
                message = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if message is None:
                return False
            self._handle(message)

    def _handle(self, message: object) -> None:
        match message:
            case Add(requests, doomed):
                self._doomed = doomed
                self._add(requests)
            case Abort(request_ids):
                for request_id in request_ids:
                    self._engine.abort(request_id)
            case AskOutputs():
                self._report(now=True)
                self._wire.send(Outputs(self._engine.unfinished_outputs()))
            case _:
                raise TypeError(f"unknown message {message!r}")

    def _add(self, requests: list[Request]) -> None:
        for request in requests:
            try:
                self._engine.add(request)
            except RowError as error:
                self._done.append(
                    Completion(
                        request.request_id,
                        [],
                        FinishReason.ERROR,
                        error_code=error.code,
                        error_message=error.message,
                    )
                )

    def _begin(self, request_ids: list[int]) -> None:
        """Said before they are computed: one of them may end this process."""
        self._wire.send(Report([], request_ids, self._engine.stats()))
        for request_id in self._doomed.keys() & set(request_ids):
            os.kill(os.getpid(), self._doomed[request_id])

    def _report(self, now: bool = False) -> None:
        """Finished rows at once, counters now and then."""
        moment = time.monotonic()
        if not (now or self._done or moment >= self._next_report):
            return
        self._next_report = moment + _REPORT_EVERY_S
        self._wire.send(Report(self._done, [], self._engine.stats()))
        self._done = []


if __name__ == "__main__":
    main(int(sys.argv[1]))
