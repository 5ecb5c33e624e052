"""`--join`: processes that come and go make one output, each row once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from echo_runs import batchgen, begin, prompts, stable, summary_of, write_rows

from batchgen.cli.main import cli
from batchgen.errors import UsageError

ROWS = 450
COMMON = ("--engine", "echo", "--join", "--join-pieces", 9, "--checkpoint-every", 20)
SLOW = "slow:at=engine.step,seconds=0.02,rows=4"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = prompts(ROWS)
    rows[11] = {"id": "no prompt"}
    rows[-1]["n"] = 2
    return write_rows(tmp_path / "in.jsonl", rows)


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    return begin("run", "-i", source, "-o", out, *COMMON, "--max-failures", 1, fault=SLOW)


def test_one_process_that_joins_writes_the_output_of_any_run(tmp_path: Path, source: Path) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    batchgen("run", "-i", source, "-o", whole, "--engine", "echo")
    result = batchgen("run", "-i", source, "-o", out, *COMMON)
    assert result.returncode == 3, result.stderr
    summary = summary_of(result)
    told = [summary[name] for name in ("rows", "computed", "ok", "errors")]
    assert told == [ROWS, ROWS, ROWS - 1, 1]
    assert stable(out).equals(stable(whole))
    again = summary_of(batchgen("run", "-i", source, "-o", out, *COMMON))
    assert (again["computed"], again["exit_code"]) == (0, 3)


def test_processes_that_come_and_go_by_kill_write_each_row_once(
    tmp_path: Path, source: Path
) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    batchgen("run", "-i", source, "-o", whole, "--engine", "echo")
    draw = random.Random(5)
    working = [start(source, out) for _ in range(2)]
    kills = 0
    deadline = time.monotonic() + 100
    while not any(process.poll() == 0 for process in working):
        assert time.monotonic() < deadline
        time.sleep(0.2)
        alive = [process for process in working if process.poll() is None]
        if kills < 3 and len(alive) > 1 and any(Path(f"{out}.ckpt/parts").glob("*")):
            draw.choice(alive).send_signal([signal.SIGKILL, signal.SIGTERM][kills % 2])
            working.append(start(source, out))
            kills += 1
            status = json.loads(CliRunner().invoke(cli, ["status", str(out), "--json"]).stdout)
            assert {shard["shard"].partition("/")[2] for shard in status["shards"]} == {"9"}
    for process in working:
        _, told = process.communicate(timeout=60)
        assert process.returncode in (0, 75, -signal.SIGKILL, -signal.SIGTERM), told
        assert process.returncode != 75 or "stopped by SIGTERM" in told
    assert kills
    assert stable(out).equals(stable(whole))
    assert stable(out)["index"].to_pylist() == [*range(ROWS), ROWS - 1]


@pytest.mark.parametrize("flags", [("--overwrite",), ("--retry", "failed"), ("--shard", "0/2")])
def test_what_whoever_comes_last_would_undo_is_refused(
    tmp_path: Path, source: Path, flags: tuple[str, ...]
) -> None:
    args = ["run", "-i", source, "-o", tmp_path / "o.parquet", *COMMON, *flags]
    refused = CliRunner().invoke(cli, [str(arg) for arg in args]).exception
    assert isinstance(refused, UsageError)
    assert "--join" in refused.message
