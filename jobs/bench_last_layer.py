"""What it brings that the last layer answers only for the tokens whose logits are asked.

    OMP_NUM_THREADS=1 python jobs/bench_last_layer.py MODEL --prompts 3 --tokens 1500
    python jobs/bench_last_layer.py MODEL --workload long --engine device=cuda,load_format=dummy

An engine without it runs first, then one with it; a line for each run but an engine's first, which
compiles and captures. Seconds are of the wall, and of this process's cores.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

from gpu_bench import say

from batchgen.engine.config import EngineConfig
from batchgen.engine.run.factory import load_served
from batchgen.report.bench import run_work
from batchgen.report.workloads import WORKLOADS, WorkItem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), help="instead of prompts")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", default="device=cpu", help="settings, as dtype=bfloat16,...")
    args = parser.parse_args()
    work = WORKLOADS[args.workload]() if args.workload else prompts(args.prompts, args.tokens)
    found: dict[bool, list[float]] = {True: [], False: []}
    for alone in (False, True):
        found[alone] = run(args, work, alone=alone)
    before, after = (statistics.median(found[alone]) for alone in (False, True))
    say(seconds_for_all_tokens=before, seconds_for_few=after, ratio=round(before / after, 3))


def run(args: argparse.Namespace, work: list[WorkItem], *, alone: bool) -> list[float]:
    """Seconds of an engine's runs: of the CPU where it is the device, else of the wall."""
    settings: dict[str, Any] = {}
    for setting in args.engine.split(","):
        name, value = setting.split("=")
        settings[name] = int(value) if value.isdigit() else value
    model, engine = load_served(EngineConfig(model=args.model, **settings))
    if not model.ends_alone:
        raise SystemExit("this model's last layer answers for every token")
    model.ends_alone = alone
    seconds = []
    for number in range(args.repeats + 1):
        engine.forget_prefixes()
        core = time.process_time()
        found, _ = run_work(engine, work)
        core = time.process_time() - core
        if number:
            seconds.append(round(core if model.device.type == "cpu" else found.wall_s, 2))
            say(few_tokens=alone, wall_s=round(found.wall_s, 2), cpu_s=round(core, 2),
                output_tokens_per_s=round(found.output_tokens_per_s, 1))  # fmt: skip
    engine.close()
    return seconds


def prompts(count: int, tokens: int) -> list[WorkItem]:
    """Of random tokens, 8 out."""
    draw = random.Random(0)
    return [WorkItem([draw.randrange(10, 5000) for _ in range(tokens)], 8) for _ in range(count)]


if __name__ == "__main__":
    main()
