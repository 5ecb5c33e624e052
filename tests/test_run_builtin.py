"""Whole runs with the model inside the package: real weights, real tokenizer, real processes."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from echo_runs import (
    batchgen,
    begin,
    loaded_modules,
    stable,
    summary_of,
    wait_for_parts,
    write_rows,
)

ROWS = 40
TEXT = "the small fox reads a long letter about rain and then walks home to its friends"
WORDS = TEXT.split()
SLOW = "slow:at=engine.step,seconds=0.03,rows=4"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"id": f"r{i}", "prompt": " ".join(WORDS[i % 7 : 5 + i % 11]), "temperature": i % 3 / 2}
        for i in range(ROWS)
    ]
    return write_rows(tmp_path_factory.mktemp("builtin") / "in.jsonl", rows)


@pytest.fixture(scope="module")
def args(source: Path) -> list[object]:
    fixed = ["--max-tokens", 24, "--seed", 7, "--device", "cpu", "--dtype", "float32", "--as-chat"]
    return ["run", "-i", source, *fixed]


@pytest.fixture(scope="module")
def whole(source: Path, args: list[object]) -> Path:
    """The output of an unbroken run."""
    out = source.with_name("whole.parquet")
    result = batchgen(*args, "-o", out)
    assert result.returncode == 0, result.stderr
    assert "built-in model" in result.stderr
    assert summary_of(result)["device"] == "cpu"
    return out


def begun(args: list[object], out: Path, fault: str) -> subprocess.Popen[str]:
    """A run whose first part is on disk."""
    process = begin(*args, "-o", out, "--checkpoint-every", 4, "-q", fault=fault)
    assert wait_for_parts(process, out), process.communicate(timeout=60)
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_a_run_that_was_stopped_ends_as_if_unbroken(
    tmp_path: Path, whole: Path, args: list[object], signum: signal.Signals, code: int
) -> None:
    out = tmp_path / "out.parquet"
    process = begun(args, out, SLOW)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    result = batchgen(*args, "-o", out)
    assert result.returncode == 0, result.stderr
    assert 0 < summary_of(result)["reused"] < ROWS
    assert stable(out).equals(stable(whole))


def test_the_batch_size_does_not_change_the_text(
    tmp_path: Path, whole: Path, args: list[object]
) -> None:
    out = tmp_path / "out.parquet"
    assert batchgen(*args, "-o", out, "--max-num-seqs", 3).returncode == 0
    assert stable(out).equals(stable(whole))


def test_a_finished_run_loads_neither_torch_nor_transformers(
    whole: Path, args: list[object]
) -> None:
    assert not loaded_modules(*args, "-o", whole) & {"torch", "transformers"}


def test_quiet_is_silent_with_a_real_model(tmp_path: Path, args: list[object]) -> None:
    result = batchgen(*args, "-o", tmp_path / "out.parquet", "--limit", 2, "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_stop_strings_of_flags_are_cut(tmp_path: Path, whole: Path, args: list[object]) -> None:
    out = tmp_path / "out.parquet"
    assert batchgen(*args, "-o", out, "--stop", "a").returncode == 0
    before = pq.read_table(whole)["completion"].to_pylist()
    after = pq.read_table(out)["completion"].to_pylist()
    assert after == [text.split("a", 1)[0] for text in before]
