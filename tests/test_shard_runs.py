"""Shards as real processes: killed, stopped, run at once and in other numbers, then merged."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from echo_runs import (
    batchgen,
    begin,
    mixed_rows,
    parts_of,
    stable,
    summary_of,
    wait_for_parts,
    write_rows,
)

ROWS = 400
SLOW = "slow:at=engine.step,seconds=0.01,rows=1"
COMMON = ["--engine", "echo", "--checkpoint-every", 10, "--max-failures", ROWS]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = mixed_rows(ROWS)
    rows[200] = rows[100]
    return write_rows(tmp_path / "in.jsonl", rows)


def start(source: Path, out: Path, shard: str, fault: str = SLOW) -> subprocess.Popen[str]:
    command = ["run", "-i", source, "-o", out, "--shard", shard, *COMMON, "-q"]
    return begin(*command, fault=fault, heard=False)


def whole_run(source: Path, tmp_path: Path) -> Path:
    whole = tmp_path / "whole.parquet"
    assert batchgen("run", "-i", source, "-o", whole, *COMMON, "-q").returncode == 0
    return whole


def nothing_temporary(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".new"))]


def test_shards_of_random_numbers_killed_and_stopped_end_as_one_run(
    source: Path, tmp_path: Path
) -> None:
    out, chosen = tmp_path / "out.parquet", random.Random(11)
    for turn in range(7):
        count, before = chosen.choice([1, 2, 3, 5]), len(parts_of(out))
        process = start(source, out, f"{chosen.randrange(count)}/{count}")
        wait_for_parts(process, out, before + 1)
        time.sleep(chosen.uniform(0, 0.1))
        polite = turn % 3 == 2
        process.send_signal(signal.SIGTERM if polite else signal.SIGKILL)
        assert process.wait(60) in ((0, 75) if polite else (0, -signal.SIGKILL))
    last = [start(source, out, f"{i}/3", fault="") for i in range(3)]
    assert [process.wait(60) for process in last] == [0, 0, 0]
    assert not out.exists()
    merged = batchgen("merge", out, "--max-failures", ROWS)
    assert merged.returncode == 0, merged.stderr
    assert summary_of(merged)["rows"] == ROWS
    assert stable(out).equals(stable(whole_run(source, tmp_path)))
    assert nothing_temporary(tmp_path)
    assert not list(Path(f"{out}.ckpt").glob("parts/*"))
    again = batchgen("run", "-i", source, "-o", out, "--shard", "4/9", *COMMON)
    assert (again.returncode, summary_of(again)["computed"]) == (0, 0)
    assert "shard 4/9 (from --shard)" in again.stderr


def test_an_unsharded_run_completes_killed_shards(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    for shard in ("0/4", "3/4"):
        process = start(source, out, shard)
        wait_for_parts(process, out, 2)
        process.kill()
        process.wait(60)
    last = batchgen("run", "-i", source, "-o", out, *COMMON)
    assert last.returncode == 0, last.stderr
    assert summary_of(last)["reused"] >= 4
    assert stable(out).equals(stable(whole_run(source, tmp_path)))
    assert nothing_temporary(tmp_path)


def test_status_and_merge_while_shards_run(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    shards = [start(source, out, f"{i}/2") for i in range(2)]
    wait_for_parts(shards[0], out, 2)
    try:
        seen = json.loads(batchgen("status", out, "--json").stdout)
        assert seen["state"] == "running"
        assert {shard["shard"] for shard in seen["shards"]} <= {"0/2", "1/2"}
        pids = {shard["owner"]["pid"] for shard in seen["shards"] if shard["owner"]}
        assert pids <= {process.pid for process in shards}
        assert pids
        held = batchgen("merge", out)
        assert held.returncode == 5
        assert "/2) is being written by process" in held.stderr
        patient = begin("merge", out, "--lock", "wait", "--rows", ROWS)
        shards[1].kill()
        shards[0].send_signal(signal.SIGTERM)
        assert shards[0].wait(60) == 75
        _, told = patient.communicate(timeout=60)
    finally:
        for process in shards:
            process.kill()
            process.wait(60)
    assert patient.returncode == 66
    assert "--shard 0/2 (" in told
    assert "--shard 1/2 (" in told
    seen = json.loads(batchgen("status", out, "--json").stdout)
    assert seen["state"] == "stopped"


def test_a_slurm_array_names_the_shard_and_a_partial_one_is_refused(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    array |= {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "1"}
    first = batchgen("run", "-i", source, "-o", out, *COMMON, **array)
    assert "shard 1/2 (from SLURM_ARRAY_TASK_ID)" in first.stderr
    assert (first.returncode, summary_of(first)["rows"]) == (0, ROWS // 2)
    partial = array | {"SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "1"}
    refused = batchgen("run", "-i", source, "-o", out, *COMMON, **partial)
    assert refused.returncode == 2
    assert '--shard "$SLURM_ARRAY_TASK_ID/N"' in refused.stderr
    changed = batchgen("run", "-i", source, "-o", out, *COMMON, "--seed", 3, "--shard", "0/2")
    assert changed.returncode == 4
    assert "seed" in changed.stderr
