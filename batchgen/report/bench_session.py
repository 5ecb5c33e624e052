"""One `batchgen bench`: load, warm up, measure each workload, compare with static batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from batchgen.engine.config import EngineConfig
from batchgen.engine.engine import LLMEngine
from batchgen.engine.factory import build_engine
from batchgen.engine.loader import load_model
from batchgen.engine.model import Model
from batchgen.report.bench import BenchRun, best_run, process_age, run_work
from batchgen.report.ceilings import Ceilings, measure_ceilings
from batchgen.report.floor import ModelSize, floor_seconds
from batchgen.report.static_baseline import generate_static, load_baseline
from batchgen.report.workloads import WorkItem

__all__ = ["COLUMNS", "BenchSession"]

COLUMNS = (
    "workload",
    "engine",
    "wall_s",
    "output_tokens_per_s",
    "total_tokens_per_s",
    "mean_live_seqs",
    "preemptions",
    "floor_share",
    "spread",
)

Workloads = Mapping[str, Sequence[WorkItem]]
MakeWorkloads = Callable[[int], Workloads]
"""From the model's vocabulary size to workloads by name."""


@dataclass(slots=True)
class BenchSession:
    """Settings of a bench, and what it has measured so far (`facts`, `rows`)."""

    config: EngineConfig
    repeats: int
    static_batch: int
    say: Callable[[str], None]
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self, make: MakeWorkloads) -> None:
        """Measure every workload with one engine, then static batches with transformers' own."""
        workloads = self._measure_engine(make)
        if self.static_batch:
            self._measure_static(workloads)

    def report(self) -> dict[str, Any]:
        """Everything measured, as one JSON object."""
        return {**self.facts, "results": self.rows}

    def _measure_engine(self, make: MakeWorkloads) -> Workloads:
        start = time.perf_counter()
        model = load_model(self.config)
        engine = build_engine(model, self.config)
        self.facts["load_s"] = round(time.perf_counter() - start, 2)
        self.say(f"loaded in {self.facts['load_s']} s")
        workloads = make(model.vocab_size)
        self._warm_up(engine, next(iter(workloads.values())))
        ceilings = measure_ceilings(model.device, model.dtype)
        size = _size(model)
        self.facts.update(_device_facts(model), **asdict(ceilings), **asdict(size))
        for name, work in workloads.items():
            self._measure_workload(engine, name, work, size, ceilings)
        self.facts["peak_memory_bytes"] = engine.stats().peak_memory_bytes
        engine.close()
        model.release_cache()
        return workloads

    def _warm_up(self, engine: LLMEngine, work: Sequence[WorkItem]) -> None:
        """A first token of the whole command, then the first workload once, apart from the rest."""
        run_work(engine, [WorkItem(work[0].prompt_token_ids, 1)])
        age = process_age()
        if age is not None:
            self.facts["first_token_of_command_s"] = round(age, 2)
        run, _ = run_work(engine, work)
        self.facts["warm_up_s"] = run.wall_s
        self.say(f"first token after {self.facts.get('first_token_of_command_s')} s of the command")
        self.say(f"warm-up: {run.wall_s} s, {run.output_tokens_per_s} output tokens/s")

    def _measure_workload(
        self,
        engine: LLMEngine,
        name: str,
        work: Sequence[WorkItem],
        size: ModelSize,
        ceilings: Ceilings,
    ) -> None:
        runs: list[BenchRun] = []
        for repeat in range(self.repeats):
            run, _ = run_work(engine, work)
            runs.append(run)
            self.say(f"{name} {repeat + 1}: {run.wall_s} s, {run.output_tokens_per_s} tokens/s")
        row: dict[str, Any] = {"workload": name, "engine": "batchgen", **best_run(runs)}
        floor = floor_seconds(work, size, ceilings.bytes_per_s, ceilings.flops_per_s)
        row["floor_s"], row["floor_share"] = round(floor, 3), round(floor / row["wall_s"], 3)
        self.rows.append(row)

    def _measure_static(self, workloads: Workloads) -> None:
        config, dtype = self.config, self.facts["dtype"]
        dummy = config.load_format == "dummy"
        model = load_baseline(str(config.model), dtype, self.facts["device"], dummy=dummy)
        for name, work in workloads.items():
            generate_static(model, [WorkItem(w.prompt_token_ids, 2) for w in work[:2]], 2)
            seconds, _ = generate_static(model, work, self.static_batch)
            output = sum(item.max_tokens for item in work)
            total = output + sum(len(item.prompt_token_ids) for item in work)
            self.rows.append(
                {
                    "workload": name,
                    "engine": f"generate, static batches of {self.static_batch}",
                    "wall_s": round(seconds, 4),
                    "output_tokens_per_s": round(output / seconds, 1),
                    "total_tokens_per_s": round(total / seconds, 1),
                }
            )
            self.say(f"{name} static: {seconds:.2f} s, {output / seconds:.1f} tokens/s")


def _size(model: Model) -> ModelSize:
    storages = {
        s.data_ptr(): s.nbytes() for s in (p.untyped_storage() for p in model.module.parameters())
    }  # tied and joined weights count once
    num_bytes = sum(storages.values())
    parameters = num_bytes // model.dtype.itemsize
    return ModelSize(parameters, num_bytes, model.bytes_per_block(1))


def _device_facts(model: Model) -> dict[str, Any]:
    on_gpu = model.device.type == "cuda"
    return {
        "model_type": model.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "device_name": torch.cuda.get_device_name(model.device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
