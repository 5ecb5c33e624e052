"""The Slurm scripts: their shell part anywhere, and on a real cluster where there is one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from echo_runs import batchgen, environment, prompts, stable, write_rows

SCRIPTS = Path(__file__).parents[1] / "jobs" / "slurm"
SLOW = "slow:at=engine.step,seconds=0.05,rows=4"
NO_CLUSTER = "needs a running Slurm cluster (sinfo finds none)"


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """An environment with the commands of a cluster that only notes what it was asked for."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, answer in (("scontrol", "JobId=7 Restarts=1 Requeue=1"), ("sbatch", "41")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\necho {name} "$@" >>"{tmp_path}/asked"\necho {answer}\n')
        tool.chmod(0o755)
    command = tools / "batchgen"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m batchgen "$@"\n')
    command.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    return environment(PATH=path, BATCHGEN=str(command), SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")


def asked(tmp_path: Path) -> str:
    noted = tmp_path / "asked"
    return noted.read_text() if noted.exists() else ""


def begun(script: str, tmp_path: Path, site: dict[str, str]) -> subprocess.Popen[str]:
    """The script as the batch process of a job, in a group of its own, with rows on disk."""
    source = write_rows(tmp_path / "in.jsonl", prompts(400))
    if script == "array.sbatch":
        site = site | {"SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "2"}
    process = subprocess.Popen(
        ["bash", str(SCRIPTS / script), str(source), "out.parquet", "--engine", "echo",
         "--checkpoint-every", "10"],
        cwd=tmp_path, env=site | {"BATCHGEN_FAULT": SLOW}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(tmp_path.glob("out.parquet.ckpt/parts/*.parquet")):
        assert process.poll() is None, process.communicate(timeout=60)
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("script", "job", "start"),
    [("run.sbatch", "7", "1"), ("array.sbatch", "41_2", "1"), ("run.sbatch", "7", "")],
)
def test_before_the_time_limit_a_job_saves_its_work_and_its_newest_start_is_requeued(
    tmp_path: Path, site: dict[str, str], script: str, job: str, start: str
) -> None:
    process = begun(script, tmp_path, site | {"SLURM_RESTART_COUNT": start})
    process.send_signal(signal.SIGUSR1)  # as with --signal=B:USR1: to the shell alone
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 75, stderr
    assert "stopped by SIGUSR1" in stderr
    wanted = [f"scontrol show job -o {job}"] + ([f"scontrol requeue {job}"] if start else [])
    assert asked(tmp_path).splitlines() == wanted


@pytest.mark.parametrize(
    ("script", "send"),
    [("run.sbatch", os.killpg), ("array.sbatch", os.killpg), ("run.sbatch", os.kill)],
)
def test_a_cancelled_job_saves_its_work_and_stays_cancelled(
    tmp_path: Path, site: dict[str, str], script: str, send: Callable[[int, int], None]
) -> None:
    """As scancel does: to every process of the job, or, with cgroups, to the shell alone."""
    process = begun(script, tmp_path, site)
    send(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 75, stderr
    assert "stopped by SIGTERM" in stderr
    assert asked(tmp_path) == ""


def test_the_merge_waits_for_all_tasks_whatever_became_of_them(
    tmp_path: Path, site: dict[str, str]
) -> None:
    scripts = shutil.copytree(SCRIPTS, tmp_path / "scripts")
    edited = (
        (scripts / "array.sbatch").read_text().replace("##SBATCH --account", "#SBATCH --account")
    )
    (scripts / "array.sbatch").write_text(edited)
    flags = ["--max-tokens", "5", "--checkpoint-dir", "my dir", "--max-failures=1%"]
    command = [str(scripts / "submit.sh"), "in.jsonl", "my out.parquet", *flags]
    done = subprocess.run(
        command, cwd=tmp_path, env=site, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["41", "41"], done.stderr
    array, merge = asked(tmp_path).splitlines()
    assert array.endswith(f"array.sbatch in.jsonl my out.parquet {' '.join(flags)}")
    assert "--dependency=afterany:41" in merge
    assert "--account=my-project" in merge
    assert "--partition" not in merge
    told = r"--lock wait --checkpoint-dir my\ dir --max-failures=1%"
    assert rf"merge my\ out.parquet {told}" in merge


@pytest.mark.parametrize("script", ["run.sbatch", "array.sbatch"])
def test_sbatch_reads_every_directive(script: str) -> None:
    """It stops at the first line that is neither empty nor a comment."""
    lines = (SCRIPTS / script).read_text().splitlines()
    command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(directives) >= 7
    assert directives[-1] < command


def test_the_shards_are_the_tasks_of_the_arrays_own_line(
    tmp_path: Path, site: dict[str, str]
) -> None:
    text = (SCRIPTS / "array.sbatch").read_text().replace("--array=0-3", "--array=0-6%2")
    (tmp_path / "array.sbatch").write_text(text)
    source = write_rows(tmp_path / "in.jsonl", prompts(21))
    subprocess.run(
        ["bash", "array.sbatch", str(source), "out.parquet", "--engine", "echo"], cwd=tmp_path,
        env=site | {"SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "5"}, check=True,
        timeout=120,
    )  # fmt: skip
    assert [p.name for p in (tmp_path / "out.parquet.ckpt" / "shards").iterdir()] == ["5of7"]


def a_cluster_answers() -> bool:
    try:
        done = subprocess.run(["sinfo", "-h"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return bool(done.stdout.strip())


@pytest.mark.skipif(not a_cluster_answers(), reason=NO_CLUSTER)
def test_on_a_real_cluster_jobs_are_requeued_cancelled_and_merged(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "check.py"), "--folder", str(tmp_path)]
    extra = {"BATCHGEN": str(Path(sys.executable).with_name("batchgen"))}
    done = subprocess.run(
        [*command, "normal", "scancel", "term", "array", "array_requeue"],
        env=environment(**extra), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cron_entry_works_in_crons_environment(tmp_path: Path) -> None:
    """As cron runs it: %-escapes undone, nearly nothing in the environment, in another folder."""
    write_rows(tmp_path / "prompts.jsonl", prompts(20))
    lines = (SCRIPTS.parent / "cron" / "crontab.example").read_text().splitlines()
    entries = [line for line in lines if line and line[0].isdigit()]
    assert len(entries) == 1
    entry = entries[0].split(None, 5)[5]
    assert "%" not in entry.replace(r"\%", "")
    settings = {
        "PATH": "/usr/bin:/bin", "HOME": "/", "SHELL": "/bin/sh", "DATA": str(tmp_path),
        "LOG": str(tmp_path / "log"), "BATCHGEN": str(tmp_path / "batchgen"),
        "BATCHGEN_ENGINE": "echo",
    }  # fmt: skip
    wrapper = tmp_path / "batchgen"
    wrapper.write_text(
        f'#!/bin/sh\nPYTHONPATH={SCRIPTS.parents[1]} exec {sys.executable} -m batchgen "$@"\n'
    )
    wrapper.chmod(0o755)

    def tick() -> str:
        command = ["/bin/sh", "-c", entry.replace(r"\%", "%")]
        subprocess.run(command, env=settings, cwd="/", check=True, timeout=60)
        return (tmp_path / "log").read_text()

    assert tick() == ""
    [out] = tmp_path.glob("out-????-??-??.parquet")
    whole = tmp_path / "whole.parquet"
    batchgen("run", "-i", tmp_path / "prompts.jsonl", "-o", whole, "--engine", "echo")
    assert stable(out).equals(stable(whole))
    assert tick() == ""
    (tmp_path / "prompts.jsonl").unlink()
    out.unlink()
    assert "batchgen left with 66" in tick()
