"""kill -9 at any moment, again and again, and then a file as if nothing had happened."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchgen.counts import counted
from batchgen.job.storage.layout import list_parts
from batchgen.selftest.audit import begun_again, differences, leftovers
from batchgen.selftest.blows import KILLED, Blow, at_the_end, chosen_blow, damage, rows_in
from batchgen.selftest.child import Child, SelftestError
from batchgen.selftest.inputs import mixed_rows, write_lines

__all__ = ["Crash", "CrashPlan"]

MAX_NUM_SEQS = 16
_EXACT = ("--device", "cpu", "--dtype", "float32")
"""In 16 bits the batch that a row falls into shows in its last digits, and a near tie may turn."""
_HELD = 5
_DAMAGE_SHARE = 0.15
_SLOW = "slow:at=engine.step,seconds=0.02,rows=2"
_EARLY_SHARE, _EARLY_S, _JITTER_S = 0.15, 3.0, 0.1


@dataclass(frozen=True, slots=True)
class CrashPlan:
    """What a crash test does. `model`: `echo`, `built-in`, or a folder."""

    kills: int
    rows: int
    model: str = "echo"
    faults: bool = False
    seed: int = 0

    @property
    def checkpoint_every(self) -> int:
        """Small enough for every kill to find something new on disk."""
        return max(2, self.rows // (4 * max(1, self.kills)))

    @property
    def bound(self) -> int:
        """Rows that one interrupted run may cost: finished and not yet safe, or in the engine."""
        return self.checkpoint_every + MAX_NUM_SEQS


@dataclass(slots=True)
class _Tally:
    """What happened so far."""

    jobs: int = 0
    recomputed: int = 0
    damaged: int = 0
    blows: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    """How many interrupted runs ended in each exit code."""
    problems: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        """Interrupted ones, however they ended."""
        return self.codes.total()

    @property
    def kills(self) -> int:
        """Runs that a SIGKILL ended."""
        return self.codes[KILLED]


class Crash:
    """One test: an unbroken run, then the same job battered until the plan's kills happened."""

    def __init__(self, folder: Path, plan: CrashPlan, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._plan = plan
        self._say = say
        self._chosen = random.Random(plan.seed)
        self._tally = _Tally()
        self._source = folder / "in.jsonl"
        self._sizes: dict[str, int] = {}

    def run(self) -> dict[str, Any]:
        """The figures; `ok` says whether everything held."""
        started = time.monotonic()
        write_lines(self._source, mixed_rows(self._plan.rows, self._plan.seed))
        whole = self._folder / "whole.parquet"
        self._finish(whole)
        rows = counted(self._plan.rows, "row")
        self._say(f"unbroken run: {rows} in {time.monotonic() - started:.1f} s")
        while self._tally.kills < self._plan.kills:
            self._batter(self._out)
            self._tell()
            if self._out.exists() and self._job_complete():
                self._settle(whole)
        self._finish(self._out)
        self._settle(whole)
        return self._figures(time.monotonic() - started)

    @property
    def _out(self) -> Path:
        return self._folder / f"out-{self._tally.jobs}.parquet"

    @property
    def _parts(self) -> Path:
        return self._folder / f"{self._out.name}.ckpt" / "parts"

    def _args(self, out: Path) -> list[object]:
        plan = self._plan
        args: list[object] = ["run", "-i", self._source, "-o", out, "--max-failures", "100%", "-q"]
        args += ["--checkpoint-every", plan.checkpoint_every, "--max-num-seqs", MAX_NUM_SEQS]
        if plan.model == "echo":
            return [*args, "--engine", "echo"]
        named = [] if plan.model == "built-in" else ["--model", plan.model]
        return [*args, *named, "--max-tokens", 12, "--as-chat", *_EXACT]

    def _finish(self, out: Path) -> None:
        with Child(self._args(out), self._folder / "run.log") as child:
            code = child.wait()
            if code:
                raise SelftestError(f"an undisturbed run ended in {code}: {child.stderr}")

    def _batter(self, out: Path) -> None:
        """One run and its blow."""
        plan, tally = self._plan, self._tally
        if plan.faults and self._chosen.random() < _DAMAGE_SHARE:
            rows = damage(self._parts, self._chosen)
            tally.damaged += rows
            tally.blows["part damaged on disk"] += rows > 0
        ending = plan.kills - tally.kills <= max(2, plan.kills // 20)
        blow = (at_the_end if ending else chosen_blow)(self._chosen, plan.faults)
        pace = "" if blow.to_the_end else _SLOW
        fault = ";".join(filter(None, [pace, blow.fault]))
        with Child(self._args(out), self._folder / "run.log", fault) as child:
            self._await_moment(child, blow)
            if blow.name == "second process" and child.running:
                self._second(out, child)
            if child.running:
                blow.strike(child)
            self._note(blow, child.wait(), child.stderr)

    def _await_moment(self, child: Child, blow: Blow) -> None:
        """Until the run did its random share of what is left, or for a moment of its start."""
        if blow.to_the_end:
            child.wait_until(lambda: False)
            return
        if not blow.fault and self._chosen.random() < _EARLY_SHARE:
            time.sleep(self._chosen.uniform(0, _EARLY_S))
            return
        known = self._rows_done()
        kills_left = self._plan.kills - self._tally.kills
        share = self._chosen.uniform(0, 1.6 * (self._plan.rows - known) / (kills_left + 1))
        child.wait_until(lambda: self._rows_done() - known >= share)
        time.sleep(self._chosen.uniform(0, _JITTER_S))

    def _second(self, out: Path, first: Child) -> None:
        """Another run of the same output is turned away while the first one works."""
        with Child(self._args(out), self._folder / "second.log") as child:
            code = child.wait()
            if code != _HELD and first.running:
                self._tally.problems.append(f"a second run ended in {code}: {child.stderr}")

    def _note(self, blow: Blow, code: int, said: str) -> None:
        tally = self._tally
        tally.codes[code] += 1
        if code not in (0, KILLED, blow.code, *blow.unready):
            tally.problems.append(f"{blow.name} ({blow.fault}) ended in {code}: {said}")
        tally.blows["kill" if code == KILLED != blow.code else blow.name] += code != 0
        if blow.name in ("torn part", "flipped bit") and code == KILLED:
            tally.damaged += self._plan.checkpoint_every

    def _rows_done(self) -> int:
        """Rows that are safe in parts."""
        for path in list_parts(self._parts):
            if path.name not in self._sizes:
                self._sizes[path.name] = rows_in(path)
        return sum(self._sizes.get(path.name, 0) for path in list_parts(self._parts))

    def _job_complete(self) -> bool:
        """Whether the run that ended last said so."""
        return self._tally.runs > 0 and not list_parts(self._parts)

    def _settle(self, whole: Path) -> None:
        """Judge a finished output, and begin another one beside it."""
        tally, out = self._tally, self._out
        tally.problems += differences(whole, out)
        tally.problems += [f"left behind: {name}" for name in leftovers(out)]
        tally.recomputed += begun_again(out)
        tally.jobs += 1
        self._sizes.clear()

    def _tell(self) -> None:
        tally = self._tally
        self._say(
            f"{tally.kills:,} of {counted(self._plan.kills, 'kill')}, "
            f"{counted(tally.runs, 'run')}, "
            f"{self._rows_done():,} of {counted(self._plan.rows, 'row')} safe"
        )

    def _figures(self, seconds: float) -> dict[str, Any]:
        tally, plan = self._tally, self._plan
        broken = sum(n for code, n in tally.codes.items() if code)
        bound = broken * plan.bound + tally.damaged
        return {
            "ok": not tally.problems and tally.recomputed <= bound,
            "kills": tally.kills,
            "rows": plan.rows,
            "model": plan.model,
            "faults": plan.faults,
            "jobs": tally.jobs,
            "runs": tally.runs,
            "blows": dict(tally.blows),
            "exit_codes": {str(code): n for code, n in sorted(tally.codes.items())},
            "checkpoint_every": plan.checkpoint_every,
            "recomputed": tally.recomputed,
            "recomputed_bound": bound,
            "recomputed_per_broken_run": round(tally.recomputed / max(1, broken), 2),
            "rows_in_damaged_parts": tally.damaged,
            "problems": tally.problems[:20],
            "seconds": round(seconds, 1),
        }
