"""Several GPUs of one host: what `--devices all` and `--tensor-parallel` give, on random weights.

    python jobs/bench_gpus.py devices --shape 0.6b --rows 16384   # file to file, one GPU and all
    python jobs/bench_gpus.py split --shape 70b                   # nano, one model over all
    python jobs/bench_gpus.py sums                                # all-reduce alone, us

`devices` runs ShareGPT's lengths twice, from a file to a file; and in float32 (`--dtype float32`)
once more with an engine process killed in the middle: all outputs must be equal, exit code 1 where
they are not. Two ratios are told: of output tokens a second of the engines, and of the command's
seconds, which hold its start. `sums` times the all-reduce of a step, as a graph replays it: NCCL's,
and PyTorch's over symmetric memory without multicast. Set NCCL_NVLS_ENABLE=0 and
TORCH_SYMM_MEM_DISABLE_MULTICAST=1 where multicast is to stay off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from child_processes import batchgen, equal_share, parser_of, run_and_kill, summary_of
from gpu_bench import LLAMA, LLAMA_8B, LLAMA_70B, QWEN_06B, replay_us, save_random_model, say

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": LLAMA | {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
                     "num_attention_heads": 8, "vocab_size": 8192},
    "0.6b": QWEN_06B,
    "8b": LLAMA_8B,
    "70b": LLAMA_70B,
}  # fmt: skip
SUMS = [(rows, width) for width in (4096, 8192) for rows in (16, 128, 256, 2048)]


def main() -> int:
    args = parse_args()
    commands = {"devices": devices, "split": split, "sums": sums}
    with tempfile.TemporaryDirectory(prefix="batchgen-gpus-") as folder:
        return commands[args.command](args, Path(folder))


def devices(args: argparse.Namespace, folder: Path) -> int:
    """One process, then one a GPU, from a file to a file."""
    model = save_random_model(folder / "model", config_of(args.shape), args.dtype)
    rows = save_rows(args.rows, folder / "rows.jsonl")

    def command(name: str, *flags: str) -> list[str]:
        return batchgen(
            "run", "--in", rows, "--out", folder / f"{name}.parquet", "--model", model, "--dtype",
            args.dtype, "--ignore-eos", "--temperature", "0", "--progress", "none", *flags,
        )  # fmt: skip

    ways = {"warm": ["--device", "cuda:0", "--limit", "64"], "one": ["--device", "cuda:0"],
            "all": ["--devices", "all"]}  # fmt: skip
    found = {}
    for name, flags in ways.items():
        began = time.monotonic()
        summary = summary_of(command(name, *flags))
        found[name] = (summary["output_tokens_per_s"], time.monotonic() - began)
        say(way=name, seconds=round(found[name][1], 1), ok=summary["ok"],
            output_tokens_per_s=summary["output_tokens_per_s"],
            engine_s=summary["engine_s"], device=summary["device"])  # fmt: skip
    say(shape=args.shape, rows=args.rows, gpus=torch.cuda.device_count(),
        engines=round(found["all"][0] / found["one"][0], 3),
        seconds=round(found["one"][1] / found["all"][1], 3))  # fmt: skip
    others = ["all"]
    if args.kill:
        flags = ["--devices", "all", "--checkpoint-every", "20"]
        code, said = run_and_kill(
            command("killed", *flags), folder / "killed.parquet", "processes.worker"
        )
        say(killed=code, said=said)
        others.append("killed")
    shares = [equal_share(folder / "one.parquet", folder / f"{name}.parquet") for name in others]
    say(equal_rows=[round(share, 4) for share in shares])
    return 0 if args.dtype != "float32" or min(shares) == 1 else 1


def split(args: argparse.Namespace, folder: Path) -> int:
    """nano over all GPUs, a model that all share."""
    folder.joinpath("config.json").write_text(json.dumps(config_of(args.shape)))
    report = folder / "report.json"
    gpus = args.gpus or torch.cuda.device_count()
    command = batchgen(
        "bench", "--model", folder, "--device", "cuda", "--dtype", args.dtype, "--load-format",
        "dummy", "--static-batch", "0", "--repeats", args.repeats, "--tensor-parallel", gpus,
        "--json", report, *args.flags,
    )  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        return done.returncode
    found = json.loads(report.read_text())
    for row in found["results"]:
        say(shape=args.shape, gpus=gpus, workload=row["workload"], wall_s=row["wall_s"],
            output_tokens_per_s=row["output_tokens_per_s"], floor_share=row["floor_share"],
            step_ms=round(row["wall_s"] / row["num_steps"] * 1e3, 2), load_s=found["load_s"],
            gib_a_card=round(found["peak_memory_bytes"] / 2**30, 1))  # fmt: skip
    return 0


def sums(args: argparse.Namespace, folder: Path) -> int:
    """Of what a layer's half adds up over all GPUs."""
    ranks = torch.cuda.device_count()
    from torch.multiprocessing.spawn import spawn

    start: Any = spawn
    start(time_sums, (ranks, str(folder / "meeting")), nprocs=ranks)
    return 0


def time_sums(rank: int, ranks: int, meeting: str) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl", init_method=f"file://{meeting}", rank=rank, world_size=ranks, device_id=device
    )
    for rows, width in SUMS:
        x = torch.randn(rows, width, dtype=torch.bfloat16, device=device)
        took = {"nccl": sum_us(partial(dist.all_reduce, x))}
        for name in ("one_shot_all_reduce", "two_shot_all_reduce_"):
            try:
                took[name] = sum_us(symmetric(name, x))
            except Exception as error:  # of a driver or a build that has none
                took[name] = f"{type(error).__name__}: {str(error)[:80]}"  # type: ignore[assignment]
        if rank == 0:
            say(rows=rows, width=width, **took)
    dist.destroy_process_group()


def sum_us(run: Callable[[], object]) -> float:
    return round(replay_us(run, 50, warm=3), 1)


def symmetric(name: str, x: torch.Tensor) -> Callable[[], object]:
    """The sum by loads from the other GPUs, without what multicasts."""
    import torch.distributed._symmetric_memory as symmetric_memory

    group = dist.group.WORLD.group_name  # type: ignore[union-attr]
    shared = symmetric_memory.empty(x.shape, dtype=x.dtype, device=x.device)
    symmetric_memory.rendezvous(shared, group)
    run = getattr(torch.ops.symm_mem, name)
    return lambda: run(shared.copy_(x), "sum", group)


def config_of(shape: str) -> dict[str, Any]:
    return SHAPES[shape] | {"bos_token_id": 0, "eos_token_id": 1}


def save_rows(count: int, path: Path) -> Path:
    from batchgen.report.workloads import sharegpt

    with path.open("w") as file:
        for item in sharegpt(count, vocab=7000):
            row = {"prompt_token_ids": item.prompt_token_ids, "max_tokens": item.max_tokens}
            file.write(json.dumps(row) + "\n")
    return path


def parse_args() -> argparse.Namespace:
    parser = parser_of(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("devices")
    one.add_argument("--rows", type=int, default=1024)
    one.add_argument("--kill", action="store_true", help="once more, and kill an engine process")
    two = commands.add_parser("split")
    two.add_argument("--gpus", type=int, help="default: all; 1 for one alone")
    two.add_argument("--repeats", type=int, default=1)
    two.add_argument("flags", nargs="*", help="more flags for batchgen bench, after --")
    for command in (one, two):
        command.add_argument("--shape", choices=SHAPES, default="0.6b")
        command.add_argument("--dtype", default="bfloat16")
    commands.add_parser("sums")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
