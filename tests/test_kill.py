"""A run killed at any moment is continued to the file that an unbroken run gives."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

from echo_runs import (
    batchgen,
    batchgen_command,
    environment,
    prompts,
    stable,
    summary_of,
    write_rows,
)

ROWS = 500
KILLS = 20
SLOW = "slow:at=engine.step,seconds=0.01,rows=1"


def mixed_rows() -> list[dict[str, object] | str]:
    """Rows of every kind: plain, sampled, several samples, bad ones."""
    rows: list[dict[str, object] | str] = list(prompts(ROWS))
    for i in range(0, ROWS, 7):
        rows[i] = {"prompt": f"without id {i}", "temperature": 1, "n": 1 + i % 3}
    for i in range(3, ROWS, 50):
        rows[i] = "{broken"
    return rows


def killed_run(args: list[object], ckpt: Path, moment: float, from_work: bool) -> int:
    """Start a slow run and kill it `moment` seconds after its start, or after it saved some rows;
    its exit code."""
    process = subprocess.Popen(batchgen_command(*args), env=environment(BATCHGEN_FAULT=SLOW))
    before = set(ckpt.glob("parts/*"))
    while from_work and not set(ckpt.glob("parts/*")) - before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(moment)
    process.kill()
    return process.wait()


def test_killed_at_twenty_random_moments_it_ends_as_if_unbroken(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", mixed_rows())
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    common = ["--engine", "echo", "--checkpoint-every", 20, "--max-failures", ROWS]
    batchgen("run", "-i", source, "-o", whole, *common)
    args = ["run", "-i", source, "-o", out, *common, "-q"]
    moments = random.Random(7)
    for kill in range(KILLS):
        from_work = kill % 4 != 0
        moment = moments.uniform(0, 0.1 if from_work else 0.6)
        code = killed_run(args, tmp_path / "out.parquet.ckpt", moment, from_work)
        assert code == -signal.SIGKILL, "the run ended before it was killed"
    last = batchgen("run", "-i", source, "-o", out, *common)
    assert last.returncode == 0, last.stderr
    assert stable(out).equals(stable(whole))
    summary = summary_of(last)
    assert summary["computed"] + summary["reused"] == summary["rows"] == ROWS
    assert summary["reused"] > 0
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
