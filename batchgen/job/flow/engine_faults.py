"""Rows that hurt, on purpose: BATCHGEN_FAULT (`job.stores.faults`) breaks the engine. Off by
default.

    BATCHGEN_FAULT='abort:id=row-17'            # SIGKILL when the engine first computes that row
    BATCHGEN_FAULT='abort:id=row-17,signal=ABRT,steps=3'       # three steps later, by SIGABRT
    BATCHGEN_FAULT='oom:step=5,9;nan:id=row-17,row-40'

`abort` ends the engine's process and `refuse` fails these rows, with any engine. `oom` runs out of
memory in these steps, or in every step that holds one of these rows; `nan` turns the logits of
these rows into NaN; `broken` raises in each step that holds one of them: these three need a model.
Rows are named by their id, or by their index where they have none.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from batchgen.engine.request import Completion, Engine, Request
from batchgen.errors import ErrorCode, RowError, UsageError
from batchgen.job.flow.wrapped_engine import WrappedEngine, innermost
from batchgen.job.rows import InputRow
from batchgen.job.stores import faults
from batchgen.job.stores.faults import Fault
from batchgen.job.text.prepared import FailedRow, PreparedRow
from batchgen.job.text.requests import Requests

__all__ = ["EngineFaults", "engine_faults"]

_IN_STEPS = ("oom", "nan", "broken")
_MOST_LOGITS = 1 << 16


class EngineFaults:
    """What strikes, and the requests of the rows that it strikes."""

    def __init__(self, wanted: Sequence[Fault]) -> None:
        self._wanted = wanted
        self._struck: dict[str, set[int]] = {fault.kind: set() for fault in wanted}
        self._steps = {n for fault in wanted if fault.kind == "oom" for n in _numbers(fault)}
        self._num_steps = 0
        self._doomed: dict[int, int] | None = None

    def watching(self, requests: Requests) -> Requests:
        """The same, noting the requests of rows that are named."""
        prepare = requests.prepare

        def noting(rows: Sequence[InputRow]) -> tuple[list[PreparedRow], list[FailedRow]]:
            ready, failed = prepare(rows)
            for prepared in ready:
                self._note(prepared)
            return ready, failed

        requests.prepare = noting  # type: ignore[method-assign]
        return requests

    def fitted(self, engine: Engine) -> Engine:
        """The engine, broken as asked. Raises UsageError where it has no steps to break."""
        if any(kind in self._struck for kind in _IN_STEPS):
            runner = getattr(innermost(engine), "_runner", None)
            if runner is None:
                raise UsageError(
                    "BATCHGEN_FAULT: oom, nan and broken need an engine with a model",
                    "leave --engine echo out, or these faults",
                )
            self._break_steps(runner)
        if "refuse" in self._struck:
            self._refuse_rows(engine)
        if "abort" not in self._struck:
            return engine
        self._doomed = getattr(innermost(engine), "doomed", None)
        if self._doomed is not None:  # a fleet
            self._doom(self._struck["abort"])
            return engine
        return _AbortingEngine(engine, self._abort_of)

    def _note(self, prepared: PreparedRow) -> None:
        for fault in self._wanted:
            if prepared.row.output_id in fault.arguments.get("id", "").split(","):
                struck = {r.request_id for r in prepared.requests}
                self._struck[fault.kind] |= struck
                if fault.kind == "abort":
                    self._doom(struck)

    def _doom(self, identifiers: set[int]) -> None:
        """Where the engine is in another process, that one is to end."""
        abort = next(fault for fault in self._wanted if fault.kind == "abort")
        if self._doomed is not None:
            self._doomed |= dict.fromkeys(identifiers, _signal_of(abort))

    def _refuse_rows(self, engine: Any) -> None:
        add = engine.add

        def adding(request: Request) -> None:
            if request.request_id in self._struck["refuse"]:
                raise RowError(ErrorCode.INTERNAL, "refused on purpose (BATCHGEN_FAULT)")
            add(request)

        engine.add = adding

    def _break_steps(self, runner: Any) -> None:
        execute = runner.execute
        poison = runner._last_tokens.new_zeros(_MOST_LOGITS).float()
        runner._model = _PoisonedModel(runner._model, poison)

        def executing(step: Any) -> Any:
            self._num_steps += 1
            inside = [sequence.request.request_id for sequence in step.sequences]
            if self._num_steps in self._steps or self._strikes("oom", inside):
                raise MemoryError("out of memory on purpose (BATCHGEN_FAULT)")
            if self._strikes("broken", inside):
                raise RuntimeError("a broken step on purpose (BATCHGEN_FAULT)")
            sampled = range(len(inside)) if runner.LOGITS_OF_EVERY_ROW else step.sampled
            poison.zero_()
            for place, row in enumerate(sampled):
                if self._strikes("nan", inside[row : row + 1]):
                    poison[place] = float("nan")
            return execute(step)

        runner.execute = executing

    def _strikes(self, kind: str, identifiers: Sequence[int]) -> bool:
        return not self._struck.get(kind, set()).isdisjoint(identifiers)

    def _abort_of(self, identifiers: Sequence[int]) -> Fault | None:
        """The fault that ends the process now that these requests begin."""
        struck = self._struck["abort"].intersection(identifiers)
        return next((f for f in self._wanted if f.kind == "abort"), None) if struck else None


class _PoisonedModel:
    """Adds `poison` to the logits: 0, or NaN for a row that is struck. It is read on the device, so
    that a captured step finds what it is by then."""

    def __init__(self, model: Any, poison: Any) -> None:
        self._model = model
        self._poison = poison  # float32 [_MOST_LOGITS]

    def forward(self, *step: Any) -> Any:
        """Logits [num_logits, vocab_size]."""
        logits = self._model.forward(*step)
        return logits + self._poison[: len(logits), None].to(logits.dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _AbortingEngine(WrappedEngine):
    """Ends the process after its journal was told that a deadly row begins."""

    def __init__(self, engine: Engine, abort_of: Callable[[Sequence[int]], Fault | None]) -> None:
        super().__init__(engine)
        self._abort_of = abort_of
        self._steps_left: int | None = None
        self._signum = signal.SIGKILL
        self._note: Callable[[list[int]], None] | None = None

    @property
    def on_admission(self) -> Callable[[list[int]], None] | None:
        """What the caller set."""
        return self._note

    @on_admission.setter
    def on_admission(self, call: Callable[[list[int]], None] | None) -> None:
        self._note = call
        self._engine.on_admission = self._begin

    def step(self) -> list[Completion]:
        """One step of the inner engine, or the end."""
        if self._steps_left is not None:
            self._steps_left -= 1
            self._die_if_due()
        return super().step()

    def _begin(self, identifiers: list[int]) -> None:
        if self._note is not None:
            self._note(identifiers)
        fault = self._abort_of(identifiers)
        if fault is not None and self._steps_left is None:
            self._signum = _signal_of(fault)
            self._steps_left = int(fault.arguments.get("steps", "0"))
            self._die_if_due()

    def _die_if_due(self) -> None:
        if self._steps_left is not None and self._steps_left <= 0:
            os.kill(os.getpid(), self._signum)


def engine_faults() -> EngineFaults | None:
    """The engine faults of BATCHGEN_FAULT; None, as nearly always, where it asks for none."""
    kinds = ("abort", "refuse", *_IN_STEPS)
    wanted = [f for f in faults.parse(os.environ.get("BATCHGEN_FAULT", "")) if f.kind in kinds]
    return EngineFaults(wanted) if wanted else None


def _signal_of(fault: Fault) -> signal.Signals:
    return signal.Signals[f"SIG{fault.arguments.get('signal', 'KILL')}"]


def _numbers(fault: Fault) -> list[int]:
    return [int(text) for text in fault.arguments.get("step", "").split(",") if text.isdigit()]
