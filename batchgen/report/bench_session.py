"""One `batchgen bench`: load, warm up, measure each workload, compare with static batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from batchgen.engine.config import EngineConfig
from batchgen.engine.memory import release_memory
from batchgen.engine.model.model import Model
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.factory import load_served
from batchgen.interpreter import tuned_interpreter
from batchgen.report.bench import BenchRun, best_run, run_work
from batchgen.report.ceilings import measure_ceilings
from batchgen.report.floor import ModelSize, floor_seconds
from batchgen.report.static_baseline import generate_static, load_baseline
from batchgen.report.variants import VARIANTS
from batchgen.report.workloads import WorkItem
from batchgen.startup.timeline import process_age

__all__ = ["COLUMNS", "PEER_COLUMNS", "BenchSession"]

COLUMNS = (
    "workload",
    "engine",
    "sampling",
    "wall_s",
    "output_tokens_per_s",
    "total_tokens_per_s",
    "mean_live_seqs",
    "preemptions",
    "cached_tokens",
    "floor_share",
    "spread",
)
PEER_COLUMNS = ("peer", "peer_tokens_per_s", "ratio")

Workloads = Mapping[str, Sequence[WorkItem]]
MakeWorkloads = Callable[[int], Workloads]
"""From the model's vocabulary size to workloads by name."""


_ROUNDED_BYTES = {"int8": 1.0, "q4": 0.625}
"""Of a weight of a linear layer, by `--quantization`."""


@dataclass(slots=True)
class BenchSession:
    """Settings of a bench, and what it has measured so far (`facts`, `rows`)."""

    config: EngineConfig
    repeats: int
    static_batch: int
    say: Callable[[str], None]
    sampling: Sequence[str] = ("own",)
    """Names of `report.variants.VARIANTS`; each workload runs with each."""
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self, make: MakeWorkloads) -> None:
        """Measure every workload with one engine, then static batches with transformers' own: both
        under the settings of the interpreter under which a job runs its engine."""
        with tuned_interpreter(short_turns=False):
            workloads = self._measure_engine(make)
            if self.static_batch:
                self._measure_static(workloads)

    def report(self) -> dict[str, Any]:
        """Everything measured, as one JSON object."""
        return {**self.facts, "results": self.rows}

    def _measure_engine(self, make: MakeWorkloads) -> Workloads:
        start = time.perf_counter()
        model, engine = load_served(self.config)
        self.facts["load_s"] = round(time.perf_counter() - start, 2)
        self.say(f"loaded in {self.facts['load_s']} s")
        workloads = make(model.vocab_size)
        self._warm_up(engine, next(iter(workloads.values())))
        for name, work in workloads.items():
            for variant in self.sampling:
                self._measure_workload(engine, name, work, variant)
        self.facts["peak_memory_bytes"] = engine.stats().peak_memory_bytes
        engine.close()
        model.release_cache()
        self._add_floors(model, workloads)
        return workloads

    def _add_floors(self, model: Model, workloads: Workloads) -> None:
        """Measured last, since it takes memory of its own."""
        ceilings, size = measure_ceilings(model.device, model.dtype), self._size(model)
        self.facts.update(_device_facts(model), **asdict(ceilings), **size._asdict())
        for row in self.rows:
            work = workloads[row["workload"]]
            floor = floor_seconds(work, size, ceilings.bytes_per_s, ceilings.flops_per_s)
            row["floor_s"], row["floor_share"] = round(floor, 3), round(floor / row["wall_s"], 3)

    def _size(self, model: Model) -> ModelSize:
        assert model.weights is not None
        weights, num_bytes = model.weights, model.weights.num_bytes
        width = _ROUNDED_BYTES.get(self.config.quantization or "")
        if width is not None:  # packed after they were weighed
            num_bytes -= int(weights.layer_parameters * (model.dtype.itemsize - width))
        return ModelSize(weights.active_parameters, num_bytes, model.bytes_per_block(1))

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
        self, engine: LLMEngine, name: str, work: Sequence[WorkItem], variant: str
    ) -> None:
        runs: list[BenchRun] = []
        settings = {} if variant == "own" else {"sampling": variant}
        if settings:  # its kernels and graphs, apart from what is measured
            run_work(engine, work, VARIANTS[variant])
        for repeat in range(self.repeats):
            engine.forget_prefixes()
            run, _ = run_work(engine, work, VARIANTS[variant])
            runs.append(run)
            what = " ".join([name, *settings.values(), str(repeat + 1)])
            self.say(f"{what}: {run.wall_s} s, {run.output_tokens_per_s} tokens/s")
        self.rows.append({"workload": name, "engine": "batchgen", **settings, **best_run(runs)})

    def _measure_static(self, workloads: Workloads) -> None:
        """What transformers cannot do here is said, and costs no figure that was measured."""
        release_memory()
        dtype, device = self.facts["dtype"], self.facts["device"]
        dummy = self.config.load_format == "dummy"
        try:
            model = load_baseline(str(self.config.model), dtype, device, dummy=dummy)
            for name, work in workloads.items():
                self._measure_baseline(model, name, work)
        except Exception as error:  # of transformers and whatever it brings
            self.facts["static_error"] = f"{type(error).__name__}: {error}"
            self.say(f"static batches were not measured: {self.facts['static_error']}")

    def _measure_baseline(self, model: Any, name: str, work: Sequence[WorkItem]) -> None:
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


def _device_facts(model: Model) -> dict[str, Any]:
    on_gpu = model.device.type == "cuda"
    return {
        "model_type": model.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "kv_cache_dtype": str(model.cache_dtype).removeprefix("torch."),
        "device": str(model.device),
        "device_name": torch.cuda.get_device_name(model.device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
