"""Continuous against static batching: one model, the same rows and slots, in one run.

Static batching admits as many rows as there are slots and waits until the last of them is done.
`static` leaves the slots of finished rows empty; `padded` computes them on to the batch's longest
row, as a padded batch of `generate` does, and keeps what was asked for. These and `continuous` run
on one engine, so that nothing but the batching differs; `generate` is transformers, padded.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from batchgen.engine.config import EngineConfig
from batchgen.engine.request import Completion
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.factory import load_served
from batchgen.report.bench import run_work
from batchgen.report.page.batching import Lane
from batchgen.report.page.slots import bars_of
from batchgen.report.static_baseline import generate_static, load_baseline
from batchgen.report.workloads import WorkItem

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`lanes`: one run of each way on the engine. `seconds`: each way's median, its name first."""

    workload: str
    num_slots: int
    output_tokens: int
    lanes: list[Lane]
    seconds: dict[str, float]
    equal_tokens: bool
    facts: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """A line a way: seconds, useful tokens a second, and how many times continuous' seconds."""
        base = self.seconds["continuous"]
        return [
            {
                "workload": self.workload, "slots": self.num_slots, "way": way,
                "wall_s": round(seconds, 3),
                "output_tokens_per_s": round(self.output_tokens / seconds, 1),
                "ratio": round(seconds / base, 2),
            }
            for way, seconds in self.seconds.items()
        ]  # fmt: skip


def compare(
    config: EngineConfig, name: str, work: Sequence[WorkItem], num_slots: int, repeats: int
) -> Comparison:
    """The ways take turns, `repeats` times; transformers' `generate` runs once."""
    model, engine = load_served(replace(config, max_num_seqs=num_slots))
    facts = {"dtype": str(model.dtype).removeprefix("torch."), "device": str(model.device)}
    run_work(engine, [replace(item, max_tokens=2) for item in work[:num_slots]])  # warm
    runs: dict[str, list[tuple[float, list[Completion]]]] = {}
    for _ in range(repeats):
        for way in ("continuous", "static", "padded"):
            engine.forget_prefixes()
            runs.setdefault(way, []).append(_run(engine, work, way, num_slots))
    engine.close()
    model.release_cache()
    seconds = {way: statistics.median(s for s, _ in found) for way, found in runs.items()}
    tokens = {way: _asked(found[0][1], work) for way, found in runs.items()}
    seconds["generate"] = _generate(config, facts, work, num_slots)
    lanes = [_lane(way, *found[0]) for way, found in runs.items()]
    return Comparison(
        name, num_slots, sum(item.max_tokens for item in work), lanes, seconds,
        len({str(one) for one in tokens.values()}) == 1, facts,
    )  # fmt: skip


def _run(
    engine: LLMEngine, work: Sequence[WorkItem], way: str, num_slots: int
) -> tuple[float, list[Completion]]:
    """(seconds, completions in the rows' order)."""
    size = len(work) if way == "continuous" else num_slots
    begin, done = time.monotonic(), list[Completion]()
    for first in range(0, len(work), size):
        batch = list(work[first : first + size])
        if way == "padded":
            longest = max(item.max_tokens for item in batch)
            batch = [replace(item, max_tokens=longest) for item in batch]
        done += run_work(engine, batch)[1]
    return time.monotonic() - begin, done


def _asked(done: Sequence[Completion], work: Sequence[WorkItem]) -> list[list[int]]:
    return [list(one.token_ids[: i.max_tokens]) for one, i in zip(done, work, strict=True)]


def _lane(way: str, seconds: float, done: Sequence[Completion]) -> Lane:
    times = [one.timings for one in done]
    began = np.array([one.first_scheduled for one in times])
    start = began.min()
    first, ended = (
        np.array([getattr(one, name) for one in times]) - start
        for name in ("first_token", "finished")
    )
    return Lane(way, seconds, bars_of(began - start, first - (began - start), ended)[0])


def _generate(
    config: EngineConfig, facts: dict[str, Any], work: Sequence[WorkItem], num_slots: int
) -> float:
    dummy = config.load_format == "dummy"
    model = load_baseline(str(config.model), facts["dtype"], facts["device"], dummy=dummy)
    generate_static(model, [WorkItem(work[0].prompt_token_ids, 2)], 1)
    return generate_static(model, work, num_slots)[0]
