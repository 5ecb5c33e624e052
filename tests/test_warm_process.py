"""Commands that tests start are processes like any other, however they were started."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import warm_process
from echo_runs import begin, environment, prompts, summary_of, write_rows

WAITS = "slow:at=engine.step,seconds=600"


@pytest.mark.parametrize("cold", [False, True])
def test_a_command_is_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cold: bool
) -> None:
    if cold:
        monkeypatch.setenv("BATCHGEN_TESTS_COLD", "1")
    write_rows(tmp_path / "in.jsonl", prompts(3))
    args = ["run", "-i", "in.jsonl", "-o", "out.parquet", "--engine", "echo"]
    begin("--help", heard=False).wait(60)
    before = len(os.listdir("/proc/self/fd"))
    process = begin(*args, fault=WAITS, cwd=tmp_path)
    assert isinstance(process, warm_process.Forked) != cold
    while not (tmp_path / "out.parquet.ckpt" / "manifest.json").exists():
        assert process.poll() is None
    about = Path(f"/proc/{process.pid}")
    status = dict(line.split(":\t") for line in (about / "status").read_text().splitlines())
    assert int(status["PPid"]) == os.getpid()
    assert (about / "cwd").readlink() == tmp_path
    links = [os.readlink(file) for file in (about / "fd").iterdir()]
    assert not [link for link in links[3:] if link.startswith("socket")]
    process.send_signal(signal.SIGKILL)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGKILL
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_has_what_the_environment_says_and_nothing_of_the_one_before(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(3))
    for tokens in ("2", None):
        given = {"BATCHGEN_MAX_TOKENS": tokens} if tokens else {}
        process = begin(
            *("run", "-i", "in.jsonl", "-o", f"{tokens}.parquet", "--engine", "echo"),
            env=environment(**given),
            cwd=tmp_path,
        )
        said, _ = process.communicate(timeout=60)
        summary = summary_of(subprocess.CompletedProcess((), 0, said, ""))
        assert (summary["completion_tokens"] == 6) == (tokens == "2")


def test_one_whose_imports_would_differ_is_started_anew(tmp_path: Path) -> None:
    process = begin("--help", env=environment(HF_HOME=str(tmp_path)))
    assert not isinstance(process, warm_process.Forked)
    assert process.communicate(timeout=60)[0].startswith("Usage:")
