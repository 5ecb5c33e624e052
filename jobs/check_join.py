"""Five processes share one output by --join, come and go by kill -9, over many echo rows.

    python jobs/check_join.py --rows 200000 --kills 30

Fails unless the output equals one process's, each row once.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

PROCESSES = 5
SAME = ["index", "sample", "id", "status", "completion", "finish_reason", "completion_tokens"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "in.jsonl").open("w") as file:
            for i in range(asked.rows):
                file.write(json.dumps({"id": f"r{i}", "prompt": f"prompt number {i}"}) + "\n")
        run(folder, "whole.parquet").wait()
        began = time.monotonic()
        kills = disturbed(folder, asked.kills, random.Random(asked.seed))
        seconds = time.monotonic() - began
        one, other = (
            pq.read_table(folder / f"{n}.parquet", columns=SAME) for n in ("whole", "out")
        )
        assert one.equals(other), "the outputs differ"
        assert len(one["index"].unique()) == len(one) == asked.rows
        print(f"{asked.rows:,} rows, {PROCESSES} processes, {kills} killed: equal, each row once, "
              f"{seconds:.0f} s")  # fmt: skip


def run(folder: Path, out: str, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "batchgen", "run", "--in", "in.jsonl", "--out", out]
    return subprocess.Popen([*command, "--engine", "echo", "-q", *flags], cwd=folder)


def disturbed(folder: Path, kills: int, draw: random.Random) -> int:
    """Kill one of five now and then and start another, until one ends; the kills that struck."""
    flags = ("--join", "--join-pieces", "20", "--checkpoint-every", "500")
    working = [run(folder, "out.parquet", *flags) for _ in range(PROCESSES)]
    struck = 0
    while True:
        time.sleep(draw.uniform(0.2, 1.5))
        alive = [process for process in working if process.poll() is None]
        if any(process.poll() == 0 for process in working):
            break
        if struck < kills and alive:
            draw.choice(alive).send_signal(signal.SIGKILL)
            struck += 1
            working.append(run(folder, "out.parquet", *flags))
        elif not alive:
            raise SystemExit("every process ended, and none completed the output")
    for process in working:
        assert process.wait() in (0, -signal.SIGKILL), process.returncode
    return struck


if __name__ == "__main__":
    main()
