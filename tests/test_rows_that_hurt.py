"""Rows that time out, run out of memory, give NaN or kill the process: error rows in their place,
every other row served."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from echo_runs import batchgen, output_rows, prompts, stable, summary_of, write_rows
from ledger_tools import die, make_row, open_ledger

from batchgen.engine.request import Request, SamplingParams
from batchgen.errors import ErrorCode
from batchgen.job.flow.quarantine import GIVEN_UP, Suspects, group_size
from batchgen.job.rows import InputRow
from batchgen.job.shard import Shard
from batchgen.job.stores import faults
from batchgen.job.text.prepared import PreparedRow

REQUEST = Request(0, [1], SamplingParams())
RUNS = 3
"""Two that die, and one whose engine is a process of its own."""


def run_until_it_ends(args: list[object], fault: str) -> tuple[int, Any]:
    """`while the process died or can be continued: run again`; runs, and the last one's result."""
    for number in range(1, 40):
        result = batchgen(*args, BATCHGEN_FAULT=fault)
        if 0 <= result.returncode < 70:
            return number, result
        assert result.returncode < 0, result.stderr
    raise AssertionError("the loop did not end")


@pytest.mark.parametrize(("deadly", "rows"), [("row-17", 64), ("row-0", 300), ("row-63", 64)])
def test_a_row_that_kills_the_process_is_found_and_every_other_row_served(
    tmp_path: Path, deadly: str, rows: int
) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(rows))
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    common = ["-i", source, "--engine", "echo", "--max-num-seqs", 64]
    batchgen("run", "-o", whole, *common)
    fault = f"slow:at=engine.step,seconds=0.001,rows=64;abort:id={deadly}"
    runs, last = run_until_it_ends(["run", "-o", out, *common], fault)
    assert runs == RUNS
    assert last.returncode == 3, last.stderr
    found, expected = output_rows(out), output_rows(whole)
    number = int(deadly.removeprefix("row-"))
    assert found[number]["error_code"] == "engine_crash"
    assert found[number]["attempt"] == RUNS
    assert "died of it, alone, 4 times" in found[number]["error_message"]
    for row, other in zip(found, expected, strict=True):
        if row["index"] != number:
            assert (row["status"], row["completion"]) == ("ok", other["completion"])
    assert "1 engine_crash" in last.stderr
    assert not list((tmp_path / "out.parquet.ckpt").glob("begun-*"))


def test_several_deadly_rows_are_all_found(tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.jsonl", prompts(64)), tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo"]
    runs, last = run_until_it_ends(args, "abort:id=row-5,row-6,row-50,signal=ABRT")
    assert (runs, last.returncode) == (RUNS, 3), last.stderr
    assert summary_of(last)["errors"] == 3
    failed = [row["id"] for row in output_rows(out) if row["error_code"] == "engine_crash"]
    assert failed == ["row-5", "row-6", "row-50"]


def test_a_deadly_row_is_found_whatever_shards_its_runs_had(tmp_path: Path) -> None:
    """Two runs of its shard die, then a run of all rows goes on from what those noted."""
    source = write_rows(tmp_path / "in.jsonl", prompts(60))
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    common = ["-i", source, "--engine", "echo", "--max-num-seqs", 64]
    batchgen("run", "-o", whole, *common)
    deadly = "abort:id=row-17"
    assert batchgen("run", "-o", out, *common, "--shard", "0/2").returncode == 0
    for _ in range(2):
        died = batchgen("run", "-o", out, *common, "--shard", "1/2", BATCHGEN_FAULT=deadly)
        assert died.returncode == -signal.SIGKILL
    runs, last = run_until_it_ends(["run", "-o", out, *common], deadly)
    assert (last.returncode, runs) == (3, 1), last.stderr
    found = {row["id"]: row["error_code"] for row in output_rows(out) if row["error_code"]}
    assert found == {"row-17": "engine_crash"}
    kept = [i for i in range(60) if i != 17]
    assert stable(out).take(kept).equals(stable(whole).take(kept))


@pytest.mark.parametrize("shard", [None, Shard(1, 2)], ids=str)
def test_saved_tokens_outlive_the_deaths_that_come_after_them(
    tmp_path: Path, shard: Shard | None
) -> None:
    saved = {(17, 0): [5, 6, 7], (19, 0): [8], (19, 1): [9, 9]}
    with open_ledger(tmp_path, shard=shard) as ledger:
        ledger.begin([17, 19, 21])
        ledger.save_inflight(saved)
    for deaths in range(1, GIVEN_UP + 1):
        ledger = open_ledger(tmp_path, shard=shard)
        assert {key: ledger.journal.inflight_tokens(*key) for key in saved} == saved
        ledger.begin([17, 19] if deaths < 4 else [17])
        die(ledger)
    with open_ledger(tmp_path, shard=shard) as ledger:
        assert (ledger.journal.deaths[17], ledger.journal.deaths[19]) == (GIVEN_UP, 3)
        ledger.append([make_row(17, error_code="engine_crash", status="error")])
        ledger.flush()
    with open_ledger(tmp_path, shard=shard) as ledger:
        assert ledger.journal.num_inflight_tokens == 3, "tokens of the row given up are gone"
        assert 17 not in ledger.journal.deaths


def test_groups_of_suspects_shrink_to_one() -> None:
    sizes = [group_size(deaths) for deaths in range(2, GIVEN_UP)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2:] == [1] * 8, "alone, eight times"


def test_a_row_that_takes_the_whole_job_along_is_given_up_after_eight_deaths_alone() -> None:
    deaths = {0: 0, 1: 2, 2: GIVEN_UP - 1, 3: GIVEN_UP}
    suspects = Suspects(lambda index: deaths[index])
    chunk = [PreparedRow(InputRow(index, str(index)), None, [1], [REQUEST]) for index in deaths]
    trusted, given_up = suspects.take_from(chunk)
    assert [prepared.row.index for prepared in trusted] == [0]
    assert [(f.row.index, f.error.code) for f in given_up] == [(3, ErrorCode.ENGINE_CRASH)]
    assert [[p.row.index for p in group] for group in suspects.groups()] == [[1], [2]]


def test_runs_that_stopped_politely_make_nobody_suspect(tmp_path: Path) -> None:
    """Four stops with the same rows in hand, then the end: all served."""
    source, out = write_rows(tmp_path / "in.jsonl", prompts(40)), tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--time-limit", "1.2s"]
    for _ in range(4):
        stopped = batchgen(*args, BATCHGEN_FAULT="slow:at=engine.step,seconds=0.4,rows=1")
        assert stopped.returncode == 75, stopped.stderr
    last = batchgen(*args[:-2])
    assert summary_of(last)["errors"] == 0


def test_a_row_timeout_ends_one_row_and_the_others_are_unaffected(tmp_path: Path) -> None:
    rows = [{"id": f"row-{i}", "prompt": f"once {i}", "max_tokens": 4} for i in range(6)]
    rows[2] |= {"max_tokens": 400, "ignore_eos": True}
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--max-failures", 1]
    slow = "slow:at=engine.step,seconds=0.02,rows=8"  # so that a busy machine's pace says nothing
    result = batchgen(*args, "--row-timeout", 2, BATCHGEN_FAULT=slow)
    assert result.returncode == 0, result.stderr
    found = output_rows(out)
    assert [row["status"] for row in found] == ["ok", "ok", "error", "ok", "ok", "ok"]
    assert found[2]["error_code"] == "row_timeout"
    assert found[2]["error_message"].startswith("unfinished after 2 s (--row-timeout); ")


def test_nan_and_memory_of_one_row_are_its_own(tmp_path: Path) -> None:
    rows = [{"id": f"row-{i}", "prompt": f"once {i}", "max_tokens": 12} for i in range(24)]
    source = write_rows(tmp_path / "in.jsonl", rows)
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    batchgen("run", "-i", source, "-o", whole)
    fault = "oom:step=3,5;nan:id=row-7;oom:id=row-9;broken:id=row-11"
    result = batchgen("run", "-i", source, "-o", out, BATCHGEN_FAULT=fault)
    assert result.returncode == 3, result.stderr
    codes = {row["id"]: row["error_code"] for row in output_rows(out) if row["error_code"]}
    assert codes == {"row-7": "nan_logits", "row-9": "oom", "row-11": "engine_crash"}
    hurt = {7, 9, 11}
    kept = [i for i in range(24) if i not in hurt]
    assert stable(out).take(kept).equals(stable(whole).take(kept))
    assert summary_of(result)["oom_events"] >= 2


def test_faults_are_read_with_lists_of_values() -> None:
    (one, other) = faults.parse("oom:step=5,9,nth=2;abort:id=a,b")
    assert (one.kind, one.arguments, one.left) == ("oom", {"step": "5,9", "nth": "2"}, 2)
    assert (other.kind, other.arguments) == ("abort", {"id": "a,b"})


def test_a_fault_that_the_engine_cannot_have_is_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(2))
    result = batchgen(
        "run", "-i", source, "-o", tmp_path / "o.parquet", "--engine", "echo",
        BATCHGEN_FAULT="nan:id=row-1",
    )  # fmt: skip
    assert result.returncode == 2
    assert signal.SIGKILL > 0
    assert "need an engine with a model" in result.stderr
