"""Break batchgen's Slurm scripts on a real cluster and print a table: fault, outcome.

    python jobs/slurm/check.py                     # all that any cluster allows: about 6 minutes
    python jobs/slurm/check.py normal requeue      # some
    python jobs/slurm/check.py node_lost           # kills a slurmd of this machine: test clusters

Needs a folder that all nodes see (--folder), a queue that is free, and a time limit of 1 minute
that is kept. BATCHGEN names the command. Exit code 1 when an outcome is not the promised one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
BATCHGEN = os.environ.get("BATCHGEN", "batchgen")
ROWS = 600
PACE = "slow:at=engine.step,seconds=0.25,rows="
OVER = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"}


class Cluster:
    """Submissions in one folder, and what became of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = [{"id": f"r{i}", "prompt": f"prompt number {i}"} for i in range(ROWS)]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.batchgen("run", "-i", "in.jsonl", "-o", "whole.parquet", "--engine", "echo", "-q")

    def batchgen(self, *args: str) -> subprocess.CompletedProcess[str]:
        """The command, in the folder."""
        return subprocess.run([BATCHGEN, *args], cwd=self.folder, capture_output=True, text=True)

    def submit(self, script: str, out: str, rows_per_step: int, *options: str) -> list[str]:
        """Job ids. The pace of the run is `rows_per_step` rows in a quarter of a second."""
        environment = os.environ | {"BATCHGEN_FAULT": f"{PACE}{rows_per_step}"}
        command = ["sbatch", "--parsable", *options] if script.endswith(".sbatch") else []
        args = ["in.jsonl", out, "--engine", "echo", "--checkpoint-every", "20"]
        done = subprocess.run(
            [*command, str(HERE / script), *args],
            cwd=self.folder, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.split()

    def show(self, job: str) -> dict[str, str]:
        """Slurm's own words on a job (of an array: `12_3`)."""
        text = _slurm("scontrol", "show", "job", "-o", job).splitlines()[0]
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait(self, job: str, timeout: float = 300) -> dict[str, str]:
        """Until the job is over for good."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            shown = self.show(job)
            if shown["JobState"] in OVER:
                return shown
            time.sleep(0.5)
        raise AssertionError(f"job {job} is still {shown['JobState']} after {timeout:.0f} s")

    def wait_for_rows(self, out: str, parts: int = 2) -> None:
        """Until some finished rows are on disk."""
        deadline = time.monotonic() + 60
        while len(list(self.folder.glob(f"{out}.ckpt/parts/*.parquet"))) < parts:
            assert time.monotonic() < deadline, f"no rows of {out} on disk after a minute"
            time.sleep(0.2)

    def check(self, out: str) -> str:
        """The output equals that of one undisturbed process, and nothing else is left."""
        compared = self.batchgen("diff", "whole.parquet", out)
        assert compared.returncode == 0, compared.stdout + compared.stderr
        left = [p.name for p in self.folder.rglob("*.tmp")]
        assert not left, left
        return f"equal to one process's, {ROWS} rows"


def normal(cluster: Cluster) -> str:
    """nothing: one job"""
    [job] = cluster.submit("run.sbatch", "normal.parquet", ROWS)
    _expect(cluster.wait(job), JobState="COMPLETED", Restarts="0")
    return cluster.check("normal.parquet")


def requeue(cluster: Cluster) -> str:
    """scontrol requeue in the middle"""
    [job] = cluster.submit("run.sbatch", "requeue.parquet", 10)
    cluster.wait_for_rows("requeue.parquet")
    _slurm("scontrol", "requeue", job)
    _expect(cluster.wait(job), JobState="COMPLETED", Restarts="1")
    return "requeued, continued, " + cluster.check("requeue.parquet")


def scancel(cluster: Cluster) -> str:
    """scancel, then the same submission again"""
    [job] = cluster.submit("run.sbatch", "scancel.parquet", 10)
    cluster.wait_for_rows("scancel.parquet")
    _slurm("scancel", job)
    shown = cluster.wait(job)
    _expect(shown, JobState="CANCELLED", Restarts="0")
    time.sleep(10)
    _expect(cluster.show(job), JobState="CANCELLED", Restarts="0")
    [again] = cluster.submit("run.sbatch", "scancel.parquet", ROWS)
    _expect(cluster.wait(again), JobState="COMPLETED")
    return f"stays cancelled ({shown['ExitCode']}), then " + cluster.check("scancel.parquet")


def time_limit(cluster: Cluster) -> str:
    """the time limit"""
    options = ("--time=1", "--signal=B:USR1@20")
    [job] = cluster.submit("run.sbatch", "limit.parquet", 2, *options)
    shown = cluster.wait(job, 600)
    _expect(shown, JobState="COMPLETED")
    assert int(shown["Restarts"]) >= 1, "the limit was not met"
    return f"requeued {shown['Restarts']} times, " + cluster.check("limit.parquet")


def array(cluster: Cluster) -> str:
    """nothing: an array of 4 and its merge"""
    _, merge = cluster.submit("submit.sh", "array.parquet", ROWS)
    _expect(cluster.wait(merge), JobState="COMPLETED")
    return "merged, " + cluster.check("array.parquet")


def array_requeue(cluster: Cluster) -> str:
    """scontrol requeue of a task of four"""
    job, merge = cluster.submit("submit.sh", "arequeue.parquet", 4)
    cluster.wait_for_rows("arequeue.parquet")
    _slurm("scontrol", "requeue", f"{job}_1")
    _expect(cluster.wait(merge), JobState="COMPLETED")
    _expect(cluster.show(f"{job}_1"), JobState="COMPLETED", Restarts="1")
    _expect(cluster.show(f"{job}_3"), JobState="COMPLETED", Restarts="0")
    return "the merge waited for it, " + cluster.check("arequeue.parquet")


def array_scancel(cluster: Cluster) -> str:
    """scancel of a task of four, then that task again"""
    job, merge = cluster.submit("submit.sh", "acancel.parquet", 4)
    cluster.wait_for_rows("acancel.parquet")
    _slurm("scancel", f"{job}_1")
    shown = cluster.wait(merge)
    _expect(shown, JobState="FAILED")
    assert not (cluster.folder / "acancel.parquet").exists()
    log = (cluster.folder / f"batchgen-{job}-merge.log").read_text()
    assert "1/4" in log or "1of4" in log or "missing" in log, log
    [again] = cluster.submit("array.sbatch", "acancel.parquet", ROWS, "--array=1")
    _expect(cluster.wait(f"{again}_1"), JobState="COMPLETED")
    merged = cluster.batchgen("merge", "acancel.parquet")
    assert merged.returncode == 0, merged.stderr
    said = log.strip().splitlines()[0]
    return f"merge refused ({shown['ExitCode']}: {said}), then " + cluster.check("acancel.parquet")


def array_time_limit(cluster: Cluster) -> str:
    """the time limit, of four tasks"""
    os.environ |= {"SBATCH_TIMELIMIT": "1", "SBATCH_SIGNAL": "B:USR1@20"}
    try:
        job, merge = cluster.submit("submit.sh", "alimit.parquet", 1)
    finally:
        del os.environ["SBATCH_TIMELIMIT"], os.environ["SBATCH_SIGNAL"]
    _expect(cluster.wait(merge, 900), JobState="COMPLETED")
    restarts = [cluster.show(f"{job}_{i}")["Restarts"] for i in range(4)]
    assert any(int(count) for count in restarts), "the limit was not met"
    return f"requeued {', '.join(restarts)} times, " + cluster.check("alimit.parquet")


def node_lost(cluster: Cluster) -> str:
    """a node's slurmd and slurmstepd killed, the old process alive"""
    [job] = cluster.submit("run.sbatch", "lost.parquet", 4)
    cluster.wait_for_rows("lost.parquet")
    shown = cluster.show(job)
    node = shown["NodeList"]
    old = _processes(r"batchgen.*run.*lost\.parquet")
    daemons = _processes(rf"slurmstepd: \[{job}\.") + _processes(rf"slurmd .*-N {node}$")
    assert len(old) == 1, f"{len(old)} runs at work"
    assert daemons, f"no slurmd of {node} on this machine"
    for pid in daemons:
        os.kill(pid, signal.SIGKILL)
    try:
        final = cluster.wait(job, 300)
    finally:
        _slurm("slurmd", "-f", os.environ["SLURM_CONF"], "-N", node)
    _expect(final, JobState="COMPLETED", Restarts="1")
    log = (cluster.folder / f"batchgen-{job}.log").read_text()
    assert '"exit_code": 0' in log, log
    return f"requeued on {final['NodeList']}, one writer at a time, " + cluster.check(
        "lost.parquet"
    )


SCENARIOS: dict[str, Callable[[Cluster], str]] = {
    call.__name__: call
    for call in (
        normal, requeue, scancel, time_limit, array, array_requeue, array_scancel,
        array_time_limit, node_lost,
    )
}  # fmt: skip


def _processes(pattern: str) -> list[int]:
    """Processes of this machine whose command line matches, shells left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            except OSError:
                continue
            if not words[0].endswith(b"bash") and re.search(pattern, os.fsdecode(b" ".join(words))):
                found.append(int(folder.name))
    return found


def _expect(shown: dict[str, str], **wanted: str) -> None:
    wrong = {name: shown.get(name) for name, value in wanted.items() if shown.get(name) != value}
    assert not wrong, f"job {shown['JobId']}: {wrong}, not {wanted} ({shown.get('Reason')})"


def _slurm(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []])
    parser.add_argument("--folder", type=Path, help="seen by all nodes; a new one is made in it")
    asked = parser.parse_args()
    _slurm("sinfo")
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="batchgen-slurm-", dir=asked.folder)))
    failed = 0
    print("| fault | outcome | seconds |\n| --- | --- | --- |", flush=True)
    for name in asked.scenario or [name for name in SCENARIOS if name != "node_lost"]:
        started = time.monotonic()
        try:
            outcome = SCENARIOS[name](cluster)
        except AssertionError as error:
            failed += 1
            outcome = f"WRONG: {error}"
        seconds = time.monotonic() - started
        print(f"| {SCENARIOS[name].__doc__} | {outcome} | {seconds:.0f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
