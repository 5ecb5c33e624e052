"""Requests that may kill their process, each computed alone after a control (see `blame`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from batchgen.engine.processes.blame import TRIALS, Blame
from batchgen.engine.processes.engine_process import EngineProcess
from batchgen.engine.processes.wire import Add
from batchgen.engine.request import Completion, FinishReason, Request
from batchgen.errors import ErrorCode

__all__ = ["CONTROL_ID", "Trial", "Trials"]

CONTROL_ID = -1
"""Request id of a control, whose completion nobody wants."""


@dataclass(slots=True)
class Trial:
    """One process' reservation for one suspect. `given_at` is None while the control lasts."""

    suspect: int
    control_until: float
    in_control: bool = False
    given_at: float | None = None


class Trials:
    """Of one fleet: suspects in turn, and the processes that are reserved for one."""

    def __init__(self, requests: Mapping[int, Request]) -> None:
        self._requests = requests
        self._blame = Blame()
        self._waiting: list[int] = []
        self._trials: dict[EngineProcess, Trial] = {}
        self._healthy: Request | None = None

    def __contains__(self, process: EngineProcess) -> bool:
        return process in self._trials

    def take(self, process: EngineProcess) -> int | None:
        """For a process that has nothing: the suspect that it is to compute now, if it is time."""
        while process not in self._trials and self._waiting:
            suspect = self._waiting.pop()
            if suspect in self._requests:
                until = time.monotonic() + self._blame.control_s(suspect)
                self._trials[process] = Trial(suspect, until)
        trial = self._trials.get(process)
        if trial is None or trial.in_control:
            return None
        if trial.suspect not in self._requests:
            del self._trials[process]
            return None
        now = time.monotonic()
        if now >= trial.control_until:
            trial.given_at = now
            return trial.suspect
        if self._healthy is not None:  # else the process waits that long: it must live at least
            trial.in_control = True
            process.send(Add([replace(self._healthy, request_id=CONTROL_ID)]))
        return None

    def finished(self, request: Request, completion: Completion) -> None:
        """A request is answered; the shortest healthy one serves as control."""
        self._blame.forget(request.request_id)
        if completion.finish_reason is FinishReason.ERROR:
            return
        if self._healthy is None or _length(request) < _length(self._healthy):
            self._healthy = request

    def control_over(self, process: EngineProcess) -> None:
        """A control was answered."""
        if process in self._trials:
            self._trials[process].in_control = False

    def ended(self, process: EngineProcess) -> None:
        """A process has no request any more: the trial, if it was one, is over."""
        trial = self._trials.get(process)
        if trial is not None and trial.given_at is not None:
            del self._trials[process]

    def bury(self, process: EngineProcess, how: str) -> Completion | None:
        """A process is gone, in a trial or not; the answer of a request that was to blame."""
        trial = self._trials.pop(process, None)
        if trial is None:
            self._blame.died_elsewhere(i for i in process.assigned if i in process.begun)
            return None
        suspect, given_at = trial.suspect, trial.given_at
        if given_at is None:
            self._blame.died_elsewhere()
            self._waiting.append(suspect)
        elif self._blame.died_alone(suspect, time.monotonic() - given_at):
            why = f"the engine's process died of it, alone, {TRIALS} times ({how}), and of nothing "
            why += "else in between; --retry failed tries it again"
            code = ErrorCode.ENGINE_CRASH
            return Completion(suspect, [], FinishReason.ERROR, None, code, why)
        return None

    def is_suspect(self, request_id: int) -> bool:
        """Whether it is to be tried alone; it then waits for that."""
        suspect = self._blame.is_suspect(request_id)
        if suspect:
            self._waiting.append(request_id)
        return suspect


def _length(request: Request) -> int:
    return len(request.prompt_token_ids) + request.params.max_tokens
