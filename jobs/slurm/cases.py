"""What any cluster with a free queue can show: nobody else's job is touched."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from cluster import Cluster, Skipped, await_that, configured, expect, slurm

__all__ = ["CASES"]


def normal(cluster: Cluster) -> str:
    """nothing: one job"""
    [job] = cluster.submit("run.sbatch", "normal.parquet", 600)
    expect(cluster.wait(job), JobState="COMPLETED", Restarts="0")
    return cluster.check("normal.parquet")


def requeue(cluster: Cluster) -> str:
    """scontrol requeue in the middle"""
    [job] = cluster.submit("run.sbatch", "requeue.parquet", 10)
    cluster.wait_for_rows("requeue.parquet")
    slurm("scontrol", "requeue", job)
    expect(cluster.wait(job), JobState="COMPLETED", Restarts="1")
    return "requeued, continued, " + cluster.check("requeue.parquet")


def scancel(cluster: Cluster) -> str:
    """scancel, then the same submission again"""
    [job] = cluster.submit("run.sbatch", "scancel.parquet", 10)
    cluster.wait_for_rows("scancel.parquet")
    slurm("scancel", job)
    shown = cluster.wait(job)
    expect(shown, JobState="CANCELLED", Restarts="0")
    time.sleep(10)
    expect(cluster.show(job), JobState="CANCELLED", Restarts="0")
    assert "stopped by SIGTERM" in cluster.log(job)
    [again] = cluster.submit("run.sbatch", "scancel.parquet", 600)
    expect(cluster.wait(again), JobState="COMPLETED")
    return f"work saved, stays cancelled ({shown['ExitCode']}); then " + cluster.check(
        "scancel.parquet"
    )


def term(cluster: Cluster) -> str:
    """TERM to the batch shell alone, as with proctrack/cgroup"""
    [job] = cluster.submit("run.sbatch", "term.parquet", 10)
    cluster.wait_for_rows("term.parquet")
    slurm("scancel", "--batch", "--signal=TERM", job)
    shown = cluster.wait(job)
    assert "stopped by SIGTERM" in cluster.log(job)
    if not _requeues(75):
        expect(shown, JobState="FAILED", ExitCode="75:0", Restarts="0")
        [job] = cluster.submit("run.sbatch", "term.parquet", 600)
        shown = cluster.wait(job)
    expect(shown, JobState="COMPLETED")
    return "handed on, work saved; then " + cluster.check("term.parquet")


def time_limit(cluster: Cluster) -> str:
    """the time limit"""
    options = ("--time=1", "--signal=B:USR1@20")
    [job] = cluster.submit("run.sbatch", "limit.parquet", 2, *options)
    shown = cluster.wait(job, 600)
    expect(shown, JobState="COMPLETED")
    assert int(shown["Restarts"]) >= 1, "the limit was not met"
    return f"requeued {shown['Restarts']} times, " + cluster.check("limit.parquet")


def node_time_limit(cluster: Cluster) -> str:
    """the time limit, of two processes that share a node and a job (`node.sbatch`)"""
    options = ("--time=1", "--signal=USR1@20", "--ntasks=2", "--gres=gpu:2")
    [job] = cluster.submit("node.sbatch", "node.parquet", 1, *options)
    shown = cluster.wait(job, 900)
    expect(shown, JobState="COMPLETED")
    assert int(shown["Restarts"]) >= 1, "the limit was not met"
    assert "stopped by SIGUSR1" in cluster.log(job)
    return f"requeued {shown['Restarts']} times, " + cluster.check("node.parquet")


def no_requeue(cluster: Cluster) -> str:
    """USR1 in a job that may not be requeued (--no-requeue)"""
    [job] = cluster.submit("run.sbatch", "never.parquet", 10, "--no-requeue")
    cluster.wait_for_rows("never.parquet")
    slurm("scancel", "--batch", "--signal=USR1", job)
    shown = cluster.wait(job)
    assert "submit the same again, unless" in cluster.log(job), cluster.log(job)
    if _requeues(75):
        expect(shown, JobState="COMPLETED", Restarts="1")
        return "RequeueExit=75 requeues it all the same, " + cluster.check("never.parquet")
    expect(shown, JobState="FAILED", ExitCode="75:0", Restarts="0")
    [again] = cluster.submit("run.sbatch", "never.parquet", 600)
    expect(cluster.wait(again), JobState="COMPLETED")
    return "FAILED (75:0), the log says to submit it again; then " + cluster.check("never.parquet")


def requeue_exit(cluster: Cluster) -> str:
    """USR1 three times where slurm.conf has RequeueExit=75"""
    if not _requeues(75):
        raise Skipped("RequeueExit is not 75 here")
    return _stopped_thrice(cluster, "exit.parquet")


def job_requeue_0(cluster: Cluster) -> str:
    """USR1 three times where slurm.conf has JobRequeue=0"""
    if configured("JobRequeue") != "0":
        raise Skipped("JobRequeue is not 0 here")
    return _stopped_thrice(cluster, "off.parquet")


def array(cluster: Cluster) -> str:
    """nothing: an array of 4 and its merge"""
    _, merge = cluster.submit("submit.sh", "array.parquet", 600)
    expect(cluster.wait(merge), JobState="COMPLETED")
    return "merged, " + cluster.check("array.parquet")


def array_requeue(cluster: Cluster) -> str:
    """scontrol requeue of a task of four"""
    job, merge = cluster.submit("submit.sh", "arequeue.parquet", 4)
    cluster.wait_for_rows("arequeue.parquet")
    slurm("scontrol", "requeue", f"{job}_1")
    expect(cluster.wait(merge), JobState="COMPLETED")
    expect(cluster.show(f"{job}_1"), JobState="COMPLETED", Restarts="1")
    expect(cluster.show(f"{job}_3"), JobState="COMPLETED", Restarts="0")
    return "the merge waited for it, " + cluster.check("arequeue.parquet")


def array_scancel(cluster: Cluster) -> str:
    """scancel of a task of four, then that task again"""
    job, merge = cluster.submit("submit.sh", "acancel.parquet", 4)
    cluster.wait_for_rows("acancel.parquet")
    slurm("scancel", f"{job}_1")
    shown = cluster.wait(merge)
    expect(shown, JobState="FAILED")
    assert not (cluster.folder / "acancel.parquet").exists()
    said = cluster.log(f"{job}-merge").strip().splitlines()
    assert "missing" in said[0], said
    [again] = cluster.submit("array.sbatch", "acancel.parquet", 600, "--array=1")
    expect(cluster.wait(f"{again}_1"), JobState="COMPLETED")
    merged = cluster.batchgen("merge", "acancel.parquet")
    assert merged.returncode == 0, merged.stderr
    return f"merge refused ({shown['ExitCode']}: {said[0]}), then " + cluster.check(
        "acancel.parquet"
    )


def array_time_limit(cluster: Cluster) -> str:
    """the time limit, of four tasks"""
    limit = {"SBATCH_TIMELIMIT": "1", "SBATCH_SIGNAL": "B:USR1@20"}
    job, merge = cluster.submit("submit.sh", "alimit.parquet", 1, **limit)
    expect(cluster.wait(merge, 900), JobState="COMPLETED")
    restarts = [cluster.show(f"{job}_{i}")["Restarts"] for i in range(4)]
    assert any(int(count) for count in restarts), "the limit was not met"
    return f"requeued {', '.join(restarts)} times, " + cluster.check("alimit.parquet")


def _requeues(code: int) -> bool:
    """Whether the site requeues what ends with this exit code."""
    for part in filter(None, configured("RequeueExit").split(",")):
        first, _, last = part.partition("-")
        if int(first) <= code <= int(last or first):
            return True
    return False


def _stopped_thrice(cluster: Cluster, out: str) -> str:
    """Each USR1 leads to one start more, not two, and to no held job."""
    [job] = cluster.submit("run.sbatch", out, 6)

    def runs(stops: int) -> bool:
        shown = cluster.show(job)
        return (shown["JobState"], shown["Restarts"]) == ("RUNNING", str(stops))

    for stops in range(3):
        # What a stopped run saves are parts too: those of the next start come after it runs.
        await_that(partial(runs, stops), f"job {job} runs after {stops} requeues", 150)
        cluster.wait_for_rows(out, len(cluster.parts(out)) + 2)
        expect(cluster.show(job), JobState="RUNNING", Restarts=str(stops))
        slurm("scancel", "--batch", "--signal=USR1", job)
    expect(cluster.wait(job), JobState="COMPLETED", Restarts="3")
    assert cluster.log(job).count("stopped by SIGUSR1") == 3
    return "requeued 3 times, never twice, never held; " + cluster.check(out)


CASES: dict[str, Callable[[Cluster], str]] = {
    call.__name__: call
    for call in (
        normal, requeue, scancel, term, time_limit, node_time_limit, no_requeue, requeue_exit,
        job_requeue_0, array, array_requeue, array_scancel, array_time_limit,
    )
}  # fmt: skip
"""In the order of the table."""
