"""The command as scripts meet it: exit codes, stdout, stderr, environment, quick help."""

from __future__ import annotations

import gzip
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from echo_runs import (
    batchgen,
    batchgen_command,
    begin,
    environment,
    loaded_modules,
    prompts,
    summary_of,
    write_rows,
)

KEYS = [
    "out", "exit_code", "rows", "ok", "errors", "skipped", "length", "computed", "reused",
    "recomputed", "prompt_tokens", "completion_tokens", "cached_tokens", "wall_s", "load_s",
    "engine_s", "output_tokens_per_s", "total_tokens_per_s", "preemptions", "oom_events",
    "peak_memory_bytes", "device", "model", "run_id", "first_token_s", "import_s", "tokenizer_s",
    "weights_s", "proof_s", "compile_s", "capture_s", "prefix_hit_rate", "truncated",
    "folded_rows", "shared_read_tokens", "bound_by",
]  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.jsonl", prompts(20))


def test_a_run_prints_one_summary_line_with_exactly_the_documented_keys(
    tmp_path: Path, rows: Path
) -> None:
    result = batchgen("run", "--in", rows, "--out", tmp_path / "out.parquet", "--engine", "echo")
    assert result.returncode == 0, result.stderr
    assert list(summary_of(result)) == KEYS
    assert summary_of(result)["rows"] == 20


def test_quiet_says_nothing_on_success(tmp_path: Path, rows: Path) -> None:
    out = tmp_path / "out.parquet"
    for _ in range(2):
        result = batchgen("run", "-i", rows, "-o", out, "--engine", "echo", "-q")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_every_flag_has_an_environment_name_and_the_flag_wins(tmp_path: Path, rows: Path) -> None:
    out = tmp_path / "out.parquet"
    given = {"BATCHGEN_ENGINE": "echo", "BATCHGEN_MAX_TOKENS": "3", "BATCHGEN_IN": str(rows)}
    assert summary_of(batchgen("run", "--out", out, **given))["completion_tokens"] == 60
    longer = batchgen("run", "--out", out, "--max-tokens", 4, "--overwrite", **given)
    assert summary_of(longer)["completion_tokens"] == 80


def test_a_variable_of_a_flag_that_repeats_holds_a_value_a_line(tmp_path: Path, rows: Path) -> None:
    named = rows.rename(tmp_path / "two words.jsonl")
    given = {
        "BATCHGEN_ENGINE": "echo",
        "BATCHGEN_STOP": "the end\n\n###",
        "BATCHGEN_IN": str(named),
    }
    assert batchgen("run", "--out", tmp_path / "o.parquet", **given).returncode == 0
    manifest = json.loads((tmp_path / "o.parquet.ckpt" / "manifest.json").read_text())
    assert manifest["fingerprint"]["sampling.stop"] == ["the end", "###"]
    batchgen(
        "run", "--out", tmp_path / "o.parquet", "--overwrite", **given | {"BATCHGEN_STOP": "\n\n"}
    )
    manifest = json.loads((tmp_path / "o.parquet.ckpt" / "manifest.json").read_text())
    assert manifest["fingerprint"]["sampling.stop"] == ["\n\n"]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["run", "--max-token", "3"], 2, "--max-tokens"),
        (["run", "--in", "IN"], 2, "--out"),
        (["rum"], 2, "run"),
        (["run", "--in", "IN", "--out", "OUT", "--max-tokens", "0"], 2, "--max-tokens"),
        (["run", "--in", "IN", "--out", "OUT", "--row-timeout", "nan"], 2, "--row-timeout"),
        (["run", "--in", "IN", "--out", "OUT", "--limit", f"{2**63}"], 2, "64 bits"),
        *[
            (["run", "--in", "IN", "--out", "OUT", "--engine", "echo", name, ""], 2, "it is empty")
            for name in ("--in", "--out", "--checkpoint-dir", "--metrics-file", "--keep-columns")
        ],
        (["run", "--in", "IN", "--out", "OUT", "--checkpoint-dir", "OUT"], 73, "the output itself"),
        (["run", "--in", "IN", "--out", "OUT", "--max-failures", "many"], 2, "max-failures"),
        (["run", "--in", "IN", "--out", "OUT", "--model", "./no/such/model"], 2, "no/such/model"),
        (["run", "--in", "no.jsonl", "--out", "OUT", "--engine", "echo"], 66, "no.jsonl"),
        (["run", "--in", "IN", "--out", "IN", "--engine", "echo"], 73, "in.jsonl"),
        (["run", "--in", "IN", "--out", "/proc/x/o.parquet", "--engine", "echo"], 73, "/proc/x"),
        (["run", "--in", "IN", "--out", "DIR", "--engine", "echo"], 73, "is a folder"),
        (["run", "--in", "IN", "--out", "/dev/null", "--overwrite"], 73, "is a device or a pipe"),
        (["status", "."], 66, "no run has begun ."),
        (["merge", "."], 73, "is a folder"),
        (["run", "--in", "BAD", "--out", "OUT", "--engine", "echo"], 3, "invalid_json"),
    ],
)
def test_a_mistake_has_its_exit_code_and_is_named(
    tmp_path: Path, rows: Path, args: list[str], code: int, told: str
) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", ["{"])
    names = {
        "IN": str(rows),
        "OUT": str(tmp_path / "out.parquet"),
        "BAD": str(bad),
        "DIR": str(tmp_path),
    }
    result = batchgen(*[names.get(arg, arg) for arg in args])
    assert result.returncode == code, result.stderr
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_another_jobs_output_is_refused_with_the_field_named(tmp_path: Path, rows: Path) -> None:
    args = ["run", "-i", rows, "-o", tmp_path / "out.parquet", "--engine", "echo"]
    assert batchgen(*args, "--temperature", 0.7).returncode == 0
    result = batchgen(*args, "--temperature", 0.9)
    assert result.returncode == 4
    assert "sampling.temperature: 0.7 -> 0.9" in result.stderr
    assert "next: " in result.stderr


def test_an_output_held_by_another_run_is_5_or_skipped(tmp_path: Path, rows: Path) -> None:
    args = ["run", "-i", rows, "-o", tmp_path / "out.parquet", "--engine", "echo"]
    first = begin(*args, fault="slow:at=engine.step,seconds=30")
    try:
        lock = tmp_path / "out.parquet.ckpt" / "owners"
        while not (lock.is_dir() and any(lock.glob("*.json"))):
            assert first.poll() is None
        held = batchgen(*args)
        assert (held.returncode, "being written" in held.stderr) == (5, True)
        assert batchgen(*args, "--lock", "skip", "-q").returncode == 0
    finally:
        first.kill()
        first.communicate(timeout=60)


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    for args in (["--help"], ["run", "--help"], ["run", "--help-all"], ["--version"]):
        heavy = {"torch", "pyarrow", "transformers", "datasets", "numpy", "tqdm"}
        assert not loaded_modules(*args) & heavy, args


def test_the_status_of_a_finished_run_needs_no_more_than_its_manifest(
    tmp_path: Path, rows: Path
) -> None:
    out = tmp_path / "out.parquet"
    assert batchgen("run", "-i", rows, "-o", out, "--engine", "echo").returncode == 0
    assert not loaded_modules("status", out) & {"torch", "pyarrow", "numpy", "transformers"}


def test_a_finished_run_is_a_no_op_without_torch(tmp_path: Path, rows: Path) -> None:
    args = ["run", "-i", rows, "-o", tmp_path / "out.parquet", "--engine", "echo"]
    computing = {"batchgen.job.run.assembly", "batchgen.job.text.requests", "jinja2"}
    first = loaded_modules(*args)
    again = loaded_modules(*args)
    assert computing <= first
    heavy = {"torch", "transformers", "datasets", "pandas", "pyarrow.compute", "pyarrow.csv"}
    assert not again & (
        computing | heavy | {"http.client", "batchgen.cli.process.prepare", "batchgen.cluster"}
    )
    assert not any(name.startswith("batchgen.gguf.architectures") for name in again)
    assert len(again) < len(first) - 100


def test_the_short_help_fits_one_screen_and_the_long_one_has_every_flag() -> None:
    short, long = (batchgen("run", flag).stdout for flag in ("--help", "--help-all"))
    assert "--in" in short
    assert "--max-tokens" in short
    assert len(short.splitlines()) <= 60
    for name in ("--gpu-memory-utilization", "--checkpoint-every", "--stop-token-ids", "--grace"):
        assert name not in short
        assert name in long
    assert "BATCHGEN_MAX_TOKENS" in long


def test_a_reader_that_leaves_early_ends_the_command_quietly() -> None:
    command = f"'{sys.executable}' -m batchgen run --help-all | head -n 1"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "streams",
    ["2>/dev/full", "2>&-", ">/dev/full", ">&-", ">&- 2>&- <&-", "2>&1 | true", "2>&1 | head -n 1"],
)
def test_a_run_outlives_the_streams_it_speaks_to(tmp_path: Path, rows: Path, streams: str) -> None:
    """With a bad row, so that both streams are spoken to, and the exit code is 3."""
    rows.write_text(rows.read_text() + "{broken\n")
    run = batchgen_command("run", "-i", rows, "-o", "out.parquet", "--engine", "echo", "-v")
    script = f"set -o pipefail; {shlex.join(run)} {streams}"
    result = subprocess.run(
        ["bash", "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 21


def test_a_failed_run_still_prints_its_summary(tmp_path: Path) -> None:
    whole = write_rows(tmp_path / "in.jsonl", prompts(40_000))
    compressed = tmp_path / "in.jsonl.gz"
    compressed.write_bytes(gzip.compress(whole.read_bytes())[:-2000])
    result = batchgen("run", "-i", compressed, "-o", tmp_path / "out.parquet", "--engine", "echo")
    assert result.returncode == 66, result.stderr
    assert json.loads(result.stdout)["exit_code"] == 66
    assert json.loads(result.stdout)["computed"] > 0
    assert not (tmp_path / "out.parquet").exists()
