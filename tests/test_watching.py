"""A run watched from outside: status, metrics for Prometheus, logs for collectors, completion."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from echo_runs import batchgen, batchgen_command, environment, prompts, write_rows

from batchgen.cli.command import main
from batchgen.job.flow.progress import Live
from batchgen.job.run.metrics_file import MetricsFile

SLOW = "slow:at=engine.step,seconds=0.2,rows=1"
METRIC = re.compile(r'batchgen_(\w+)\{out="((?:[^"\\]|\\.)*)"\} (\S+)')


def metrics_in(path: Path) -> dict[str, float]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    found = [METRIC.fullmatch(line) for line in lines]
    assert all(found)
    return {one[1]: float(one[3]) for one in found if one}


def test_a_run_leaves_its_metrics(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [*prompts(5), "nope"])
    out, metrics = tmp_path / "o.parquet", tmp_path / "batchgen.prom"
    words = ["run", "-i", source, "-o", out, "--engine", "echo", "--metrics-file", metrics]
    assert main([str(word) for word in words]) == 3
    found = metrics_in(metrics)
    assert (found["up"], found["rows_done_total"], found["rows_failed_total"]) == (0, 6, 1)
    assert found["rows_expected"] == 6
    text = metrics.read_text()
    for name in found:
        assert f"# TYPE batchgen_{name} " in text
        assert f"# HELP batchgen_{name} " in text
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_metrics_need_a_folder_and_later_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(2))
    words = ["run", "-i", source, "-o", tmp_path / "o.parquet", "--engine", "echo"]
    words += ["--metrics-file", tmp_path / "none" / "x.prom"]
    assert main([str(word) for word in words]) == 73
    file = MetricsFile(Live(), tmp_path / "gone" / "x.prom", {"out": 'a"b'})
    file.update()
    file.close()


def test_a_name_with_quotes_stays_one_label(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    MetricsFile(Live(rows=3), path, {"out": 'a"b\\c'}).close()
    assert metrics_in(path)["rows_done_total"] == 3


def test_a_log_in_json_is_an_object_a_line(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [*prompts(3), "nope"])
    words = ("run", "-i", source, "-o", tmp_path / "o.parquet", "--engine", "echo")
    result = batchgen(*words, "--log-format", "json", "--system", "x", "--progress", "bar")
    assert result.returncode == 3
    assert json.loads(result.stdout)["errors"] == 1
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert {tuple(line) for line in lines} == {("time", "level", "message")}
    assert "warning" in {line["level"] for line in lines}
    assert any("1 of 4 rows failed" in line["message"] for line in lines)
    assert not any(line["message"].startswith("batchgen:") for line in lines)
    refused = batchgen(*words, "--log-format", "json", "--max-tokens", "5")
    assert refused.returncode == 4
    assert all(json.loads(line)["message"] for line in refused.stderr.splitlines())


def test_status_knows_about_how_far_a_run_is_and_watches_it_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_rows(tmp_path / "in.jsonl", prompts(12)), tmp_path / "o.parquet"
    words = ("run", "-i", source, "-o", out, "--engine", "echo", "--checkpoint-seconds", "0.1")
    process = subprocess.Popen(
        batchgen_command(*words),
        env=environment(BATCHGEN_FAULT=SLOW),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        manifest = tmp_path / "o.parquet.ckpt" / "manifest.json"
        while not manifest.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert main(["status", str(out), "--watch", "--every", "0.2", "--json"]) == 0
        assert process.wait(30) == 0
    finally:
        process.kill()
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert seen[-1]["state"] == "complete"
    assert seen[-1]["rows_done"] == 12
    running = [one for one in seen if one["state"] == "running"]
    assert any(12 in (one["rows_total"], one["rows_expected"]) for one in running)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    script = batchgen(_BATCHGEN_COMPLETE=f"{shell}_source")
    assert script.returncode == 0
    assert "_BATCHGEN_COMPLETE" in script.stdout


def test_flags_are_completed() -> None:
    words = {"COMP_WORDS": "batchgen run --max-t", "COMP_CWORD": "2"}
    found = batchgen(_BATCHGEN_COMPLETE="bash_complete", **words)
    assert "plain,--max-tokens" in found.stdout.splitlines()
