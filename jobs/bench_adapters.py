"""Rows that choose among LoRA adapters on a GPU: in graphs, eagerly, and the base model alone.

    python jobs/bench_adapters.py 0.6b [--ways graphs base eager] [--adapters 4] [--rank 16]

Random weights; adapters on every linear layer; of the rows of `nano` one in `adapters + 1` uses
none. A line for each run: output tokens per second; the first run of a way compiles and captures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from shutil import copy
from typing import Any

import torch
from bench_gpus import SHAPES
from gpu_bench import BUILT_IN, say
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from batchgen.engine.config import Adapter, EngineConfig
from batchgen.engine.run.factory import load_served
from batchgen.report.bench import run_work
from batchgen.report.workloads import WORKLOADS, WorkItem

WAYS = ("graphs", "base", "eager")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=sorted(SHAPES.keys() - {"tiny"}))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rows", type=int, help="of the workload, the first so many")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchgen-adapters-") as folder:
        model = save_shape(args.shape, Path(folder) / "model")
        adapters = tuple(
            save_adapter(model, Path(folder) / f"a{number}", args.rank, number)
            for number in range(args.adapters)
        )
        for way in args.ways:
            run(args, way, model, () if way == "base" else adapters)


def run(args: argparse.Namespace, way: str, model: Path, adapters: tuple[Adapter, ...]) -> None:
    """One engine, the workload several times."""
    config = EngineConfig(
        model=model,
        device=args.device,
        dtype="bfloat16",
        load_format="dummy",
        max_model_len=4096,
        adapters=adapters,
        enforce_eager=way == "eager",
    )
    _, engine = load_served(config)
    names = [*(adapter.name for adapter in adapters), ""]

    def choice(index: int, _: WorkItem) -> dict[str, Any]:
        return {"adapter": names[index % len(names)]}

    for number in range(args.repeats):
        engine.forget_prefixes()
        found, _ = run_work(engine, WORKLOADS["nano"]()[: args.rows], choice)
        say(shape=args.shape, way=way, run=number, wall_s=round(found.wall_s, 2),
            output_tokens_per_s=round(found.output_tokens_per_s))  # fmt: skip
    engine.close()


def save_shape(shape: str, folder: Path) -> Path:
    """A config and a tokenizer; weights are drawn at load."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPES[shape]))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        copy(BUILT_IN / name, folder)
    return folder


def save_adapter(model: Path, folder: Path, rank: int, seed: int) -> Adapter:
    """Of random halves for every linear layer but the head."""
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    draw = torch.Generator().manual_seed(seed)
    tensors, endings = {}, set()
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Linear) and part is not module.get_output_embeddings():
            endings.add(name.rpartition(".")[2])
            a = torch.randn(rank, part.in_features, generator=draw) * part.in_features**-0.5
            b = torch.randn(part.out_features, rank, generator=draw) * 0.02
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.bfloat16()
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.bfloat16()
    folder.mkdir()
    file = folder / "adapter_model.safetensors"
    save_file(tensors, file)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank,
              "bias": "none", "target_modules": sorted(endings)}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return Adapter(folder.name, folder, file)


if __name__ == "__main__":
    main()
