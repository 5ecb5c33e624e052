"""Continuous against static batching: the same engine, model and rows, in one run.

    python jobs/bench_static.py MODEL [--dtype float32] [--repeats 3] [--out FILE]

Static batching admits as many rows as there are slots and waits until the last of them is done.
`static` leaves the slots of finished rows empty; `padded` computes them on to the batch's longest
row, as a padded batch in `generate` does, and counts only what was asked for. Continuous batching
fills a slot as soon as it is free. These three run on batchgen's own engine, so that nothing but
the batching differs; `generate` is transformers in padded batches of the same size, run once. Rows:
six varied ones, one far longer than the rest, on MODEL and on GPT-2's shape with random weights;
and the 64 rows of bench_workload.py on MODEL.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bench_workload import SIX_VARIED, make_engine, make_rows, mixed_lengths, run_rows
from contenders import Measured, measure
from transformers import GPT2Config

from batchgen.engine.request import Engine
from batchgen.report.static_baseline import generate_static, load_baseline
from batchgen.report.workloads import WorkItem

SIX_SLOTS = (2, 3, 6)
MIX_SLOTS = (8, 16)


def main() -> int:
    args = parse_args()
    path, six = make_rows(args.model, list(SIX_VARIED))
    _, mix = make_rows(args.model, mixed_lengths())
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "dtype": args.dtype}
    with tempfile.TemporaryDirectory() as folder:
        GPT2Config().save_pretrained(folder)
        shape = Subject("GPT-2's shape", Path(folder), args, dummy=True)
        report |= shape.compare(six, SIX_SLOTS)
    subject = Subject("model", path, args)
    report |= subject.compare(six, SIX_SLOTS)
    report |= subject.compare(mix, MIX_SLOTS)
    print_table(report)
    print(json.dumps(report))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder, a .gguf file or a hub id")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where the JSON report goes")
    return parser.parse_args()


def run_static(engine: Engine, rows: list[WorkItem], padded: bool) -> list[list[int]]:
    """Batches of as many rows as there are slots, in order, each until its last row is done."""
    tokens: list[list[int]] = []
    for first in range(0, len(rows), engine.max_num_seqs):
        batch = rows[first : first + engine.max_num_seqs]
        longest = max(row.max_tokens for row in batch)
        asked = [replace(row, max_tokens=longest) for row in batch] if padded else batch
        done = run_rows(engine, asked)
        tokens += [ids[: row.max_tokens] for ids, row in zip(done, batch, strict=True)]
    return tokens


@dataclass(frozen=True)
class Subject:
    """One model, and how it is measured."""

    name: str
    path: Path
    args: argparse.Namespace
    dummy: bool = False

    def compare(self, rows: list[WorkItem], slot_counts: tuple[int, ...]) -> dict[str, Any]:
        """The result of each number of slots, by its title."""
        baseline = load_baseline(str(self.path), self.args.dtype, "cpu", dummy=self.dummy)
        found = {}
        for slots in slot_counts:
            load_format = "dummy" if self.dummy else "auto"
            engine = make_engine(self.path, self.args.dtype, slots, load_format=load_format)
            result = compare_ways(engine, rows, self.args.repeats)
            engine.close()
            seconds, _ = generate_static(baseline, rows, slots)
            result["generate_s"] = round(seconds, 2)
            result["generate_ratio"] = round(seconds / result["continuous_s"], 2)
            found[f"{self.name}, {len(rows)} rows, {slots} slots"] = result
            print(json.dumps(result), file=sys.stderr, flush=True)
        return found


def compare_ways(engine: Engine, rows: list[WorkItem], repeats: int) -> dict[str, Any]:
    """Each way in turn, as often as asked; `equal_tokens` tells whether they gave the same."""
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "padded": lambda: run_static(engine, rows, padded=True),
        "static": lambda: run_static(engine, rows, padded=False),
        "continuous": lambda: run_rows(engine, rows),
    }
    run_rows(engine, [replace(row, max_tokens=2) for row in rows[: engine.max_num_seqs]])
    runs: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            runs[name].append(measure(way))
    seconds = {name: median(measured) for name, measured in runs.items()}
    result: dict[str, Any] = {f"{name}_s": round(value, 2) for name, value in seconds.items()}
    for name in ("padded", "static"):
        result[f"{name}_ratio"] = round(seconds[name] / seconds["continuous"], 2)
    result["others_cores"] = max(round(run.others, 2) for ran in runs.values() for run in ran)
    result["equal_tokens"] = len({str(ran[0].tokens) for ran in runs.values()}) == 1
    return result


def median(runs: list[Measured]) -> float:
    """Seconds, of the quiet runs where there are any."""
    return statistics.median(run.seconds for run in [r for r in runs if r.quiet] or runs)


def print_table(report: dict[str, Any]) -> None:
    print(
        "| rows and slots | continuous s | static s | padded s | generate s | ratios |",
        file=sys.stderr,
    )
    print("| --- | --- | --- | --- | --- | --- |", file=sys.stderr)
    for name, line in report.items():
        if isinstance(line, dict):
            print(
                f"| {name} | {line['continuous_s']} | {line['static_s']} | {line['padded_s']} | "
                f"{line['generate_s']} | "
                f"{line['static_ratio']}, {line['padded_ratio']}, {line['generate_ratio']} |",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
