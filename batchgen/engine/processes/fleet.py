"""Several engine processes as one engine: rows are given out from one queue, longest first.

No process gets a fixed half: each holds as many requests as it computes at once and a few more
(`routing` says which gets which), and one that runs dry takes back what another was given and has
not begun. A process that dies costs nobody else anything: its requests go back into the queue and
it is started again. A request that was being computed in two deaths is computed alone from then on,
and is given up only once it is sure that nothing else kills processes here (`blame`).
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait

from batchgen.engine.processes import wire
from batchgen.engine.processes.devices import Device
from batchgen.engine.processes.engine_process import EngineProcess
from batchgen.engine.processes.routing import Router
from batchgen.engine.processes.trials import CONTROL_ID, Trials
from batchgen.engine.request import Completion, Request
from batchgen.engine.stats import EngineStats, add_counters, total_of
from batchgen.errors import BatchgenError

__all__ = ["Fleet", "begin_fleet"]

_MOST_DEATHS = 3
"""A device whose process dies so often without finishing anything is left alone."""
_ROWS_PER_SLOT = 8
_WAIT_S = 0.1
_OUTPUTS_S = 10.0
_log = logging.getLogger(__name__)


def begin_fleet(devices: Sequence[Device], load: wire.Load) -> Fleet:
    """A process a device, which begin to load. To be closed, whatever follows."""
    return Fleet([EngineProcess(device, load) for device in devices], load)


class Fleet:
    """`request.Engine` over processes. Single-threaded, as every engine."""

    def __init__(self, processes: Sequence[EngineProcess], load: wire.Load) -> None:
        self._load = load
        self.max_model_len = 1 << 62
        """Of the process that has, or had, the least room."""
        self._processes = list(processes)
        self._requests: dict[int, Request] = {}
        self._enqueued: dict[int, float] = {}
        self._owners: dict[int, EngineProcess] = {}
        self._queue: list[tuple[int, int, int]] = []  # (-max_tokens, arrival, request id)
        self._arrival = itertools.count()
        self._router: Router[EngineProcess] = Router()
        self._trials = Trials(self._requests)
        self.doomed: dict[int, int] = {}  # for tests: request -> signal that ends its process
        self._finished: list[Completion] = []
        self._past = EngineStats()  # of processes that died
        self._outputs: dict[int, list[int]] | None = None
        self.on_admission: Callable[[list[int]], None] | None = None

    def wait_until_loaded(self) -> None:
        """Raises what one of them raised instead: ModelRefusedError, UsageError."""
        while any(process.loaded is None for process in self._processes):
            self._receive(None)

    @property
    def max_num_seqs(self) -> int:
        """Of all processes together."""
        return sum(p.loaded.max_num_seqs for p in self._processes if p.loaded) or 1

    @property
    def num_unfinished(self) -> int:
        """Requests added and neither returned nor aborted."""
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Queue a request. Raises RowError(PROMPT_TOO_LONG); other faults come as completions."""
        request.check_length(self.max_model_len)
        self._requests[request.request_id] = request
        self._enqueued[request.request_id] = time.monotonic()
        self._push(request)

    def step(self) -> list[Completion]:
        """Give out what there is room for, and wait a moment for what comes back."""
        self._give_out()
        if not self._finished:
            self._receive(_WAIT_S)
        finished, self._finished = self._finished, []
        return finished

    def abort(self, request_id: int) -> None:
        """Forget an unfinished request, wherever it is."""
        self._requests.pop(request_id, None)
        self._enqueued.pop(request_id, None)
        owner = self._owners.pop(request_id, None)
        if owner is not None:
            self._drop(owner, request_id)
            owner.send(wire.Abort([request_id]))

    def unfinished_outputs(self) -> dict[int, list[int]]:
        """What each generated; where a process does not answer in time, what they came with."""
        known = {i: list(request.output_token_ids) for i, request in self._requests.items()}
        for process in [p for p in self._processes if p.assigned]:
            known |= self._ask_outputs(process)
        return {i: tokens for i, tokens in known.items() if i in self._requests}

    def stats(self) -> EngineStats:
        """All processes' counters, those that died included."""
        return total_of([self._past, *(process.stats for process in self._processes)])

    def close(self) -> None:
        """End every process."""
        for process in self._processes:
            process.send(None)  # to all of them first: each takes a moment to let its GPU go
        for process in self._processes:
            process.close()
        self._processes = []

    def _push(self, request: Request) -> None:
        entry = (-request.params.max_tokens, next(self._arrival), request.request_id)
        heapq.heappush(self._queue, entry)

    def _pop(self) -> int | None:  # the next that was not aborted meanwhile
        while self._queue:
            request_id = heapq.heappop(self._queue)[2]
            if request_id in self._requests and request_id not in self._owners:
                return request_id
        return None

    def _give_out(self) -> None:
        self._deal()
        for process in self._processes:
            if process.loaded is not None and not process.assigned:
                self._find_work(process)
            elif process.num_free > 0 and process not in self._trials:
                self._relieve_another(process)

    def _deal(self) -> None:
        """Each to one that has room: for what it computes at once, and for what shows its engine
        how large steps must be for slots to stay filled."""
        room = {
            p: _ROWS_PER_SLOT * p.loaded.max_num_seqs - len(p.assigned)
            for p in self._processes
            if p.loaded is not None and p not in self._trials
        }
        hands: dict[EngineProcess, list[int]] = {process: [] for process in room}
        while (free := [p for p in room if room[p] > 0]) and (
            request_id := self._pop()
        ) is not None:
            process = self._router.route(self._requests[request_id], free)
            hands[process].append(request_id)
            room[process] -= 1
        for process, batch in hands.items():
            self._give(process, batch)

    def _find_work(self, idle: EngineProcess) -> None:
        """For a process that has none: half of what another has not begun, or a suspect alone."""
        busiest = max(self._processes, key=lambda process: len(process.unbegun))
        taken = [] if idle in self._trials else busiest.unbegun[1::2]
        if taken:
            self._move(taken, busiest, idle)
        elif (suspect := self._trials.take(idle)) is not None:
            self._give(idle, [suspect])

    def _relieve_another(self, free: EngineProcess) -> None:
        """For a process with free slots, and nothing left to deal: what another has no slot for."""
        busiest = min(self._processes, key=lambda process: process.num_free)
        excess = min(free.num_free, -busiest.num_free // 2)
        if excess > 0 and busiest not in self._trials:
            self._move(busiest.unbegun[-excess:], busiest, free)

    def _move(self, request_ids: list[int], owner: EngineProcess, to: EngineProcess) -> None:
        for request_id in request_ids:
            self._drop(self._owners.pop(request_id), request_id)
        owner.send(wire.Abort(request_ids))
        self._give(to, request_ids)

    def _give(self, process: EngineProcess, request_ids: Sequence[int]) -> None:
        requests = [self._requests[request_id] for request_id in request_ids]
        for request in requests:
            self._router.give(request, process)
            process.assigned[request.request_id] = request
            self._owners[request.request_id] = process
        if requests:
            process.send(wire.Add(requests, self.doomed))

    def _receive(self, timeout: float | None) -> None:
        """Handle what the processes say; wait for it at most `timeout` seconds."""
        by_connection: dict[object, EngineProcess] = {p.connection: p for p in self._processes}
        for connection in wait([process.connection for process in self._processes], timeout):
            process = by_connection[connection]
            self._handle(process, process.receive())

    def _handle(self, process: EngineProcess, message: object) -> None:
        match message:
            case wire.Loaded(stats=stats):
                process.loaded, process.stats = message, stats
                self.max_model_len = min(self.max_model_len, message.max_model_len)
            case wire.Report(completions, begun, stats):
                process.stats = stats
                self._note_begun(process, begun)
                self._take(process, completions)
            case wire.Outputs(token_ids):
                self._outputs = token_ids
            case wire.Failed(error) if process.loaded is None and process.is_first:
                raise error  # a model that is refused, a device that is not there
            case wire.Failed(error):
                _log.warning("%s: %s: %s", process.device.name, type(error).__name__, error)
            case None:
                self._bury(process)

    def _note_begun(self, process: EngineProcess, begun: list[int]) -> None:
        new = [i for i in begun if i in process.assigned and i not in process.begun]
        process.begun.update(new)
        if new and self.on_admission is not None:
            self.on_admission(new)

    def _take(self, process: EngineProcess, completions: list[Completion]) -> None:
        for completion in completions:
            request_id = completion.request_id
            if request_id == CONTROL_ID:
                self._trials.control_over(process)
            if self._owners.get(request_id) is not process:
                continue  # aborted, or taken back, while it was finished
            process.num_completions += 1
            self._finish(completion)

    def _finish(self, completion: Completion) -> None:
        request_id = completion.request_id
        self._router.take(request_id, completion)
        self._trials.finished(self._requests.pop(request_id), completion)
        completion.timings.enqueued = self._enqueued.pop(request_id)
        owner = self._owners.pop(request_id, None)
        if owner is not None:
            self._drop(owner, request_id)
        self._finished.append(completion)

    def _drop(self, owner: EngineProcess, request_id: int) -> None:
        self._router.take(request_id)
        owner.assigned.pop(request_id, None)
        owner.begun.discard(request_id)
        if not owner.assigned:
            self._trials.ended(owner)

    def _ask_outputs(self, process: EngineProcess) -> dict[int, list[int]]:
        """Reports that come before its answer are taken on the way."""
        self._outputs = None
        process.send(wire.AskOutputs())
        until = time.monotonic() + _OUTPUTS_S
        while self._outputs is None and process in self._processes and time.monotonic() < until:
            if wait([process.connection], _WAIT_S):
                self._handle(process, process.receive())
        return self._outputs or {}

    def _bury(self, process: EngineProcess) -> None:
        """A process is gone: its requests are queued again, and its device gets a new one."""
        how, in_trial = process.death(), process in self._trials
        self._processes.remove(process)
        add_counters(self._past, process.stats)
        given_up = self._trials.bury(process, how)
        self._router.forget(process)
        for request_id in process.assigned:
            self._router.take(request_id)
            del self._owners[request_id]
            if given_up is None and not self._trials.is_suspect(request_id):
                self._push(self._requests[request_id])
        if given_up is not None:
            self._finish(given_up)
        name = process.device.name
        if not process.num_completions and not (in_trial and process.assigned):
            process.deaths_in_a_row += 1
        if process.deaths_in_a_row < _MOST_DEATHS:
            _log.warning("the engine on %s ended (%s); it is started again", name, how)
            self._processes.append(EngineProcess(process.device, self._load, process))
            return
        _log.warning("the engine on %s ended again (%s); going on without it", name, how)
        if not self._processes:
            raise BatchgenError(
                f"the engines of all devices ended; the last one, on {name}, by {how}",
                "finished rows are kept: run again to continue",
            )
