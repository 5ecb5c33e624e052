"""One process on one core against one process a core (`--devices`), in turns, on rows of all sizes.

    python jobs/bench_devices.py [--devices cpu:0,cpu:1] [--rows 240] [--rounds 3] [--model MODEL]

Both run the same job from a new folder; the outputs must be equal, rows and order, and one of which
a process is killed in the middle must equal them too. Rates are output tokens per second of the
engine, without imports and loading, that a job of hours does not notice. On a machine that others
use they say little, so there is a second ratio: the time on its core of the one process over that
of the busiest of several, less that of a job of one row. It is what the first ratio would be if
nobody else ran. Prints the machine's load beside each round, and medians; exit code 1 where files
differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from child_processes import children

Row = dict[str, Any]

TEXT = "the small fox reads a long letter about rain and then walks home"


def main() -> int:
    args = parse_args()
    folder = Path(tempfile.mkdtemp(prefix="batchgen-devices-"))
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in mixed_rows(args.rows)))
    job = Job(rows, args.model, folder)
    first = args.devices.split(",")[0]
    loading = max(Job(one_row(folder), args.model, folder).run("loading", first)["cpu_s"])
    ratios, on_cores = [], []
    for number in range(args.rounds):
        load = os.getloadavg()[0]
        one = job.run(f"one{number}", first)
        many = job.run(f"many{number}", args.devices)
        ratios.append(many["output_tokens_per_s"] / one["output_tokens_per_s"])
        times = [[round(seconds - loading, 1) for seconds in run["cpu_s"]] for run in (one, many)]
        on_cores.append(max(times[0]) / max(times[1]))
        rates = [run["output_tokens_per_s"] for run in (one, many)]
        print(f"round {number}: {rates[0]:.1f} and {rates[1]:.1f} tokens/s, ratio {ratios[-1]:.2f}"
              f" (load {load:.1f} before, {os.getloadavg()[0]:.1f} after)", flush=True)  # fmt: skip
        print(f"  seconds on cores {times[0]} and {times[1]}, ratio {on_cores[-1]:.2f}", flush=True)
    job.run_and_kill("killed", args.devices)
    print(f"median ratio of {args.devices} to {first}: {statistics.median(ratios):.2f}")
    print(f"median ratio of seconds on cores: {statistics.median(on_cores):.2f}")
    names = [f"{kind}{n}" for n in range(args.rounds) for kind in ("one", "many")] + ["killed"]
    different = [name for name in names[1:] if not job.equal(names[0], name)]
    print("outputs differ: " + ", ".join(different) if different else "all outputs are equal")
    return 1 if different else 0


def mixed_rows(count: int) -> list[Row]:
    """Prompts of 4 to 200 words, 8 to 96 tokens each, every third row drawn at random."""
    draws = random.Random(0)
    words = TEXT.split()
    return [
        {
            "id": f"row-{number}",
            "prompt": " ".join(draws.choices(words, k=draws.randint(4, 200))),
            "max_tokens": draws.randint(8, 96),
            "temperature": 0.8 if number % 3 == 0 else 0.0,
            "seed": number,
        }
        for number in range(count)
    ]


def one_row(folder: Path) -> Path:
    """An input that costs little more than loading does."""
    path = folder / "one_row.jsonl"
    path.write_text(json.dumps({"prompt": "the small fox", "max_tokens": 1}) + "\n")
    return path


def cpu_seconds(pid: int) -> float:
    """That a process had so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Job:
    """One input, run in several ways."""

    def __init__(self, rows: Path, model: str | None, folder: Path) -> None:
        self._rows, self._model, self._folder = rows, model, folder

    def run(self, name: str, devices: str) -> Row:
        """The summary of a run on these devices, and `cpu_s` of its engine processes."""
        process = subprocess.Popen(self._command(name, devices), stdout=subprocess.PIPE, text=True)
        used: dict[int, float] = {}
        while process.poll() is None:
            with suppress(FileNotFoundError, ProcessLookupError):  # one that ends meanwhile
                for pid in children(process.pid, "processes.worker"):
                    used[pid] = max(cpu_seconds(pid), used.get(pid, 0.0))
            time.sleep(0.05)
        assert process.stdout is not None
        summary: Row = json.loads(process.stdout.read())
        return summary | {"cpu_s": list(used.values())}

    def run_and_kill(self, name: str, devices: str) -> None:
        """As `run`, and the newest engine process is killed once there are finished rows."""
        process = subprocess.Popen(self._command(name, devices), stdout=subprocess.DEVNULL)
        parts = self._folder / f"{name}.parquet.ckpt" / "parts"
        while process.poll() is None and not list(parts.glob("*.parquet")):
            time.sleep(0.1)
        os.kill(children(process.pid, "processes.worker")[-1], signal.SIGKILL)
        assert process.wait() == 0, "a killed engine process ended the job"

    def equal(self, one: str, other: str) -> bool:
        """Whether two outputs hold the same rows in the same order."""
        files = [str(self._folder / f"{name}.parquet") for name in (one, other)]
        return subprocess.run(batchgen("diff", *files), stdout=subprocess.DEVNULL).returncode == 0

    def _command(self, name: str, devices: str) -> list[str]:
        given = ["--model", self._model] if self._model else []
        return batchgen(
            "run", "--in", str(self._rows), "--out", str(self._folder / f"{name}.parquet"),
            "--devices", devices, "--dtype", "float32", "--checkpoint-every", "10",
            "--progress", "none", *given,
        )  # fmt: skip


def batchgen(*args: str) -> list[str]:
    """The command of this checkout."""
    return [sys.executable, "-m", "batchgen", *args]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", default="cpu:0,cpu:1")
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="default: the built-in one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
