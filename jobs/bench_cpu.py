"""batchgen against transformers' static batches on a CPU, side by side in one run.

    python jobs/bench_cpu.py MODEL [--dtypes float32,bfloat16] [--int8] [--repeats 3] [--out FILE]

64 rows of fixed lengths (see bench_workload.py). transformers: `generate` on padded batches of 8 in
the order of the rows, each batch until its longest row is done. batchgen: an engine with 64 slots.
Loading is left out, prompts are counted in. Runs during which other processes took more than 0.35
cores are flagged and left out of the medians where quiet ones exist. In float32 the tokens must be
equal but for near ties (the two best logits within 1e-4), which are listed; exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_workload import make_contender, make_engine, make_rows
from contenders import Contender, measure, take_turns

from batchgen.report.static_baseline import generate_static, load_baseline
from batchgen.report.workloads import WorkItem, mixed_lengths

STATIC_BATCH = 8
NEAR_TIE = 1e-4


def main() -> int:
    args = parse_args()
    path, rows = make_rows(args.model, mixed_lengths())
    report: dict[str, Any] = {"machine": describe_machine(), "workload": describe(rows)}
    print(json.dumps(report), file=sys.stderr)
    equal = True
    for dtype in args.dtypes.split(","):
        contenders = make_contenders(path, rows, dtype, args.int8)
        for repeat in range(args.repeats):
            take_turns(contenders[repeat and args.once :], 1)
        report[dtype] = [contender.line(contenders[0]) for contender in contenders]
        if dtype == "float32":
            report["partings"] = partings(path, rows, contenders)
            equal = all(parting["gap"] <= NEAR_TIE for parting in report["partings"])
        print_table(dtype, report[dtype])
    print(json.dumps(report))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if equal else 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder, a .gguf file or a hub id")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--int8", action="store_true", help="also batchgen with 8-bit weights")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="run transformers once, not each time")
    parser.add_argument("--out", type=Path, help="where the JSON report goes")
    return parser.parse_args()


def make_contenders(path: Path, rows: list[WorkItem], dtype: str, int8: bool) -> list[Contender]:
    """Load everything, and warm it up on a few tokens."""
    model = load_baseline(str(path), dtype, "cpu")
    short = [WorkItem(row.prompt_token_ids[:20], 4) for row in rows[:STATIC_BATCH]]
    generate_static(model, short, STATIC_BATCH)
    static = partial(measure, lambda: generate_static(model, rows, STATIC_BATCH)[1])
    found = [Contender(f"transformers {dtype}", static)]
    for quantization in (None, "int8") if int8 else (None,):
        engine = make_engine(path, dtype, len(rows), quantization=quantization)
        name = f"batchgen int8 ({dtype})" if quantization else f"batchgen {dtype}"
        found.append(make_contender(name, engine, rows))
    return found


@torch.inference_mode()
def partings(path: Path, rows: list[WorkItem], contenders: list[Contender]) -> list[dict[str, Any]]:
    """Where batchgen's float32 tokens first leave transformers', and how near the two were."""
    model, found = load_baseline(str(path), "float32", "cpu"), []
    for index, row in enumerate(rows):
        ours, theirs = (contender.runs[0].tokens[index] for contender in contenders[1::-1])
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
        if at is None:
            continue
        logits = model(torch.tensor([row.prompt_token_ids + theirs[:at]])).logits[0, -1]
        gap = float(logits.max() - logits[[ours[at], theirs[at]]].min())
        found.append({"row": index, "token": at, "gap": gap})
    return found


def describe(rows: list[WorkItem]) -> dict[str, int]:
    return {
        "rows": len(rows),
        "prompt_tokens": sum(len(row.prompt_token_ids) for row in rows),
        "output_tokens": sum(row.max_tokens for row in rows),
    }


def describe_machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    return {
        "cpu": name or platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def print_table(dtype: str, lines: list[dict[str, Any]]) -> None:
    print(f"| {dtype} | output tokens/s | ratio |\n| --- | --- | --- |", file=sys.stderr)
    for line in lines:
        shown = (line["contender"], line["output_tokens_per_s"], line["ratio_to_first"])
        print(f"| {' | '.join(map(str, shown))} |", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
