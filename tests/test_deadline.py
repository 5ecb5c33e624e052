"""Deadlines: a run leaves by itself in time, with everything saved; `--grace` is a bound."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
from echo_runs import batchgen, prompts, stable, summary_of, write_rows
from test_signals import SLOW, start, wait_for

from batchgen.engine.request import Completion, FinishReason, SamplingParams, Timings
from batchgen.errors import UsageError
from batchgen.job.flow.pace import Pace
from batchgen.job.stopping.deadline import next_deadline, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("60s", 60), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800),
     ("1-00:00:00", 86400), ("1-02:03", 93780), ("01:02:03", 3723), ("10:30", 630)],
)  # fmt: skip
def test_durations_are_read_as_people_and_slurm_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "ten", "10 m", "1:2:3:4", "5x", "0:00"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no duration"):
        parse_duration(text)


def unbroken(folder: Path, source: Path) -> pa.Table:
    """What a run that nobody stops writes."""
    batchgen("run", "-i", source, "-o", folder / "whole.parquet", "--engine", "echo")
    return stable(folder / "whole.parquet")


def test_the_earlier_deadline_counts_and_a_past_one_does_not() -> None:
    now, wall = time.monotonic(), time.time()
    assert next_deadline(None, {}, now) is None
    assert next_deadline(None, {"SLURM_JOB_END_TIME": str(int(wall) - 9)}, now) is None
    assert next_deadline(None, {"SLURM_JOB_END_TIME": "soon"}, now) is None
    slurm = next_deadline("2h", {"SLURM_JOB_END_TIME": str(int(wall) + 600)}, now)
    assert slurm is not None
    assert slurm.name == "SLURM_JOB_END_TIME"
    assert slurm.at - now == pytest.approx(600, abs=2)
    assert slurm.at - slurm.leave_at == pytest.approx(60, abs=1)
    mine = next_deadline("10s", {"SLURM_JOB_END_TIME": str(int(wall) + 600)}, now)
    assert mine is not None
    assert (mine.at - now, mine.at - mine.leave_at) == (10, 2)


def test_rows_that_cannot_finish_are_known_by_what_was_measured() -> None:
    now = time.monotonic()
    pace = Pace(now + 5)
    assert pace.fits(SamplingParams(max_tokens=10**6))  # nothing is known yet
    tokens = [0] * 100
    times = Timings(now - 3, now - 2, now - 1, now)
    pace.note(Completion(1, tokens, FinishReason.STOP, timings=times))
    assert pace.expected_seconds(SamplingParams(max_tokens=10)) == pytest.approx(0.2)
    assert pace.fits(SamplingParams(max_tokens=10**6))  # rows end after 100 tokens
    assert not pace.fits(SamplingParams(max_tokens=400, ignore_eos=True))
    assert not pace.fits(SamplingParams(max_tokens=400, min_tokens=300))


@pytest.fixture(scope="module", autouse=True)
def _server_is_up() -> None:
    """A worker's first command waits for what forks it (see `warm_process`): no run's own time."""
    assert batchgen("--version").returncode == 0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.jsonl", prompts(400))


@pytest.mark.parametrize("by_slurm", [False, True])
def test_a_run_leaves_with_75_before_its_time_is_over(
    tmp_path: Path, source: Path, by_slurm: bool
) -> None:
    out, started = tmp_path / "out.parquet", time.monotonic()
    args = ["run", "-i", source, "-o", out, "--engine", "echo"]
    limit = {"SLURM_JOB_END_TIME": str(int(time.time()) + 5)} if by_slurm else {}
    flags = [] if by_slurm else ["--time-limit", "4s"]
    stopped = batchgen(*args, *flags, BATCHGEN_FAULT=SLOW, **limit)
    assert stopped.returncode == 75, stopped.stderr
    assert time.monotonic() - started < 5
    assert f"stopped by {'SLURM_JOB_END_TIME' if by_slurm else '--time-limit 4s'}" in stopped.stderr
    done = summary_of(stopped)["rows"]
    assert 0 < done < 400
    again = summary_of(batchgen(*args))
    assert (again["reused"], again["rows"], again["exit_code"]) == (done, 400, 0)


def test_what_waits_and_cannot_finish_is_left_and_what_runs_is_finished(
    tmp_path: Path, source: Path
) -> None:
    """Each token takes 0.2 s by what was measured: new rows stop long before the time is over."""
    out = tmp_path / "out.parquet"
    fault = "slow:at=engine.step,seconds=0.02,rows=2,token_seconds=0.2"
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--time-limit", "8s"]
    started = time.monotonic()
    stopped = batchgen(*args, BATCHGEN_FAULT=fault)
    assert stopped.returncode == 75, stopped.stderr
    assert time.monotonic() - started < 6
    assert 0 < summary_of(stopped)["rows"] < 400


@pytest.mark.parametrize("where", ["engine.step", "engine.load"])
def test_the_grace_is_kept_whatever_the_engine_does(
    tmp_path: Path, source: Path, where: str
) -> None:
    out = tmp_path / "out.parquet"
    process = start(source, out, f"slow:at={where},seconds=60", "--grace", 2)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, stderr = process.communicate(timeout=10)
    assert time.monotonic() - asked < 2.5
    assert process.returncode == 75, stderr
    assert batchgen("run", "-i", source, "-o", out, "--engine", "echo").returncode == 0


@pytest.mark.parametrize("where", ["part.rename", "final.fsync"])
def test_the_grace_is_kept_whatever_the_disk_does(tmp_path: Path, source: Path, where: str) -> None:
    """A writing thread and the main one, each at a file system that does not answer."""
    out = tmp_path / "out.parquet"
    process = start(source, out, f"stall:at={where},seconds=600", "--grace", 1)
    folder = out.parent if where.startswith("final") else tmp_path / "out.parquet.ckpt" / "parts"
    wait_for(process, folder, ".*.tmp")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert 1 < time.monotonic() - asked < 8
    assert process.returncode == 75
    assert "the process ends without it" in stderr
    assert not out.exists()
    assert batchgen("run", "-i", source, "-o", out, "--engine", "echo").returncode == 0
    assert stable(out).equals(unbroken(tmp_path, source))


def test_a_stop_that_waits_saves_gives_the_output_up_and_dies_by_the_next_signal(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out.parquet"
    process = start(source, out, SLOW, "--on-signal", "wait")
    wait_for(process, tmp_path / "out.parquet.ckpt", "begun-*.log")
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert process.poll() is None
    other = batchgen("run", "-i", source, "-o", out, "--engine", "echo")
    assert other.returncode == 0, other.stderr
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=5)
    assert process.returncode == 128 + signal.SIGTERM
    assert "waiting to be killed" in stderr
    assert '"exit_code": 75' in stdout
    assert stable(out).equals(unbroken(tmp_path, source))


def test_a_stop_while_the_output_is_written_is_obeyed_after_the_grace(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--time-limit", "2s", "--grace", 0]
    stopped = batchgen(*args, BATCHGEN_FAULT="stall:at=final.piece,seconds=3")
    assert stopped.returncode == 75, stopped.stderr
    assert "while the output was written; every row is done and kept" in stopped.stderr
    assert not out.exists()
    again = summary_of(batchgen(*args[:-4]))
    assert (again["reused"], again["computed"]) == (400, 0)


def test_a_time_limit_that_is_none_is_a_usage_error(tmp_path: Path, source: Path) -> None:
    wrong = batchgen("run", "-i", source, "-o", tmp_path / "o.parquet", "--time-limit", "soon")
    assert wrong.returncode == 2
    assert "--time-limit 'soon' is no duration" in wrong.stderr
