"""One process pinned to a core against one process a core (`--devices`), on rows of all sizes.

    python jobs/bench_devices.py [--devices cpu:0,cpu:1] [--rows 480] [--rounds 3] [--model MODEL]

The one process is `batchgen run --device cpu` under `taskset -c 0`, all of its work on that core.
Both run the same job from a new folder, in turns; the outputs must be equal, rows and order, and
one of which an engine process is killed in the middle must equal them too. Two ratios: of output
tokens a second of the engine, without start and loading, which a job of hours does not notice; and
of the whole command's seconds, beside the share of them that went by before the engine had loaded.
Exit code 1 where files differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from child_processes import WORDS, batchgen, equal_share, parser_of, run_and_kill, summary_of


class Measured(NamedTuple):
    """One run."""

    rate: float
    """Output tokens a second of its engine."""
    seconds: float
    start_s: float
    """Of these, those before the engine worked."""


def main() -> int:
    args = parse_args()
    job = Job(args)
    rates, walls = [], []
    for number in range(args.rounds):
        load = os.getloadavg()[0]
        one, many = job.run(f"one{number}", pinned=True), job.run(f"many{number}", pinned=False)
        rates.append(many.rate / one.rate)
        walls.append(one.seconds / many.seconds)
        print(f"round {number} (load {load:.1f}): {one.rate:.0f} and {many.rate:.0f} tokens/s, "
              f"ratio {rates[-1]:.2f}; {one.seconds:.1f} and {many.seconds:.1f} s, ratio "
              f"{walls[-1]:.2f}; before the engine {one.start_s / one.seconds:.0%} and "
              f"{many.start_s / many.seconds:.0%} of them", flush=True)  # fmt: skip
    print(f"medians: {statistics.median(rates):.2f} of tokens/s, {statistics.median(walls):.2f} of "
          "seconds")  # fmt: skip
    return 0 if job.outputs_are_equal() else 1


class Job:
    """One input, run in several ways."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._folder = Path(tempfile.mkdtemp(prefix="batchgen-devices-"))
        with (self._folder / "rows.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in mixed_rows(args.rows))
        self._outputs: list[Path] = []

    def run(self, name: str, *, pinned: bool) -> Measured:
        """One process on the first core, or one on each."""
        core = self._args.devices.partition(",")[0].removeprefix("cpu:")
        began = time.monotonic()
        if pinned:
            command = self._command(name, "--device", "cpu")
            summary = summary_of(["taskset", "-c", core, *command])
        else:
            summary = summary_of(self._command(name, "--devices", self._args.devices))
        seconds = time.monotonic() - began
        return Measured(summary["output_tokens_per_s"], seconds, seconds - summary["engine_s"])

    def outputs_are_equal(self) -> bool:
        """Whether all runs so far, and one that loses an engine process, wrote the same rows."""
        command = self._command("killed", "--devices", self._args.devices)
        code, said = run_and_kill(command, self._outputs[-1], "processes.worker")
        print(f"an engine process killed: exit code {code}, {said}")
        shares = [equal_share(self._outputs[0], other) for other in self._outputs[1:]]
        print(f"rows of the other outputs that are equal: {min(shares):.1%}")
        return code == 0 and min(shares) == 1

    def _command(self, name: str, *flags: str) -> list[str]:
        self._outputs.append(self._folder / f"{name}.parquet")
        given = ["--model", self._args.model] if self._args.model else []
        return batchgen(
            "run", "--in", self._folder / "rows.jsonl", "--out", self._outputs[-1], "--dtype",
            "float32", "--checkpoint-every", "10", "--progress", "none", *flags, *given,
        )  # fmt: skip


def mixed_rows(count: int) -> list[dict[str, Any]]:
    """Prompts of 4 to 200 words, 8 to 96 tokens each, every third row drawn at random."""
    draws = random.Random(0)
    return [
        {
            "id": f"row-{number}",
            "prompt": " ".join(draws.choices(WORDS, k=draws.randint(4, 200))),
            "max_tokens": draws.randint(8, 96),
            "temperature": 0.8 if number % 3 == 0 else 0.0,
            "seed": number,
        }
        for number in range(count)
    ]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, devices="cpu:0,cpu:1", rows=480, rounds=3)
    parser.add_argument("--model", help="default: the built-in one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
