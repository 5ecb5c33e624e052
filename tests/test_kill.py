"""A run killed at any moment is continued to the file that an unbroken run gives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, batchgen_command, begin, mixed_rows, stable, summary_of, write_rows

ROWS = 500
KILLS = 12
SLOW = "slow:at=engine.step,seconds=0.01,rows=1"


def killed_run(args: list[object], ckpt: Path, moment: float, from_work: bool) -> int:
    """Start a slow run and kill it `moment` seconds after its start, or after it saved some rows;
    its exit code."""
    # The first moments are of Python's own start.
    process = begin(*args, fault=SLOW, heard=False, cold=not from_work)
    before = set(ckpt.glob("parts/*"))
    while from_work and not set(ckpt.glob("parts/*")) - before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(moment)
    process.kill()
    return process.wait(60)


def test_killed_at_a_dozen_random_moments_it_ends_as_if_unbroken(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", mixed_rows(ROWS))
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


LAUNCHER = """
import subprocess, sys
run = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
print(run.pid, flush=True)
run.communicate()
"""


def launched(args: list[object], ckpt: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that starts a slow run and reads what it says; and the run, once rows are safe."""
    command = batchgen_command(*args)
    launcher = begin("-c", LAUNCHER, *command, fault=SLOW, start_new_session=True, stderr=None)
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    launcher.stdout.close()
    while len(list(ckpt.glob("parts/*"))) < 3:
        assert launcher.poll() is None
        time.sleep(0.01)
    return launcher, pid


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie, which nobody here may reap, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def wait_for_death(pid: int) -> None:
    """A killed process is gone a moment after the signal, one that ends after its last word."""
    until = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.parametrize("together", [False, True], ids=["launcher alone", "launcher and run"])
def test_a_killed_launcher_costs_no_row_and_none_is_computed_twice(
    tmp_path: Path, together: bool
) -> None:
    source = write_rows(tmp_path / "in.jsonl", mixed_rows(ROWS))
    out, ckpt = tmp_path / "out.parquet", tmp_path / "out.parquet.ckpt"
    common = ["--engine", "echo", "--checkpoint-every", 20, "--max-failures", ROWS]
    args: list[object] = ["run", "-i", source, "-o", out, *common]
    launcher, pid = launched(args, ckpt)
    if together:
        os.killpg(launcher.pid, signal.SIGKILL)
    else:
        launcher.kill()
    launcher.wait(60)
    if together:
        wait_for_death(pid)
    assert is_running(pid) != together
    if not together:
        refused = batchgen(*args)
        assert refused.returncode == 5
        assert f"is being written by process {pid} on" in refused.stderr
    last = batchgen(*args, "--lock", "wait")
    assert last.returncode == 0, last.stderr
    wait_for_death(pid)  # it gave the output up a moment before its end
    assert not is_running(pid)
    summary = summary_of(last)
    assert summary["computed"] + summary["reused"] == summary["rows"] == ROWS
    rows = pq.read_table(out, columns=["index", "attempt"]).to_pylist()
    attempts = list({row["index"]: row["attempt"] for row in rows}.values())  # not by sample
    if together:
        assert 0 < summary["reused"] < ROWS
        assert attempts.count(2) == summary["recomputed"] <= 20 + 1
    else:
        assert (summary["computed"], set(attempts)) == (0, {1})
    whole = tmp_path / "whole.parquet"
    batchgen("run", "-i", source, "-o", whole, *common)
    assert stable(out).equals(stable(whole))
    claims = [json.loads(path.read_text()) for path in (ckpt / "owners").iterdir()]
    assert max(claims, key=lambda claim: int(claim["attempt"]))["released"]
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
