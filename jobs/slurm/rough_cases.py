"""What only a test cluster should be asked to show: nodes are lost, jobs of others give way."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import Cluster, Skipped, await_that, configured, expect, partitions, processes, slurm

__all__ = ["ROUGH_CASES"]

_FAR_BATCHGEN = """#!{python}
\"\"\"batchgen as on a node that shares a folder but no locks with the others.\"\"\"
import errno, fcntl, os, socket, sys

def no_flock(*args):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = no_flock
socket.gethostname = lambda: os.environ.get("SLURMD_NODENAME", "login")
from batchgen.__main__ import main
sys.exit(main())
"""


def node_lost(cluster: Cluster) -> str:
    """a node's slurmd and slurmstepd killed, the old process alive"""
    [job] = cluster.submit("run.sbatch", "lost.parquet", 4)
    cluster.wait_for_rows("lost.parquet")
    node = cluster.show(job)["NodeList"]
    old = processes(r"batchgen run .*--out lost\.parquet")
    assert len(old) == 1, f"{len(old)} runs at work"
    with _lost(node, [job]):
        final = cluster.wait(job, 300)
    expect(final, JobState="COMPLETED", Restarts="1")
    assert '"exit_code": 0' in cluster.log(job), cluster.log(job)
    return f"requeued on {final['NodeList']}, one writer at a time, " + cluster.check(
        "lost.parquet"
    )


def array_node_lost(cluster: Cluster) -> str:
    """a node with two of four tasks lost: one process works on, one freezes and wakes up"""
    far = _far_batchgen(cluster)
    job, merge = cluster.submit("submit.sh", "alost.parquet", 1, BATCHGEN=str(far))
    await_that(lambda: _at_work(cluster, "alost.parquet") == 4, "four tasks at work", 60)
    tasks = {f"{job}_{i}": cluster.show(f"{job}_{i}") for i in range(4)}
    node = tasks[f"{job}_3"]["NodeList"]
    lost = [name for name, shown in tasks.items() if shown["NodeList"] == node]
    if len(lost) != 2:
        raise Skipped(f"{len(lost)} of the four tasks run on {node}: two are needed there")
    frozen = processes(rf"run .*--out alost\.parquet --shard {lost[0][-1]}/4")[0]
    try:
        with _lost(node, [tasks[name]["JobId"] for name in lost]):
            os.kill(frozen, signal.SIGSTOP)
            owners = cluster.folder / f"alost.parquet.ckpt/shards/{lost[0][-1]}of4/owners"
            await_that(lambda: (owners / "2.json").exists(), "the frozen one's successor", 240)
            os.kill(frozen, signal.SIGCONT)
            await_that(lambda: not _alive(frozen), "the end of the one that woke up", 60)
            expect(cluster.wait(merge), JobState="COMPLETED")
    finally:
        _kill(frozen)
    for name in tasks:
        expect(cluster.show(name), JobState="COMPLETED", Restarts=str(int(name in lost)))
    log = cluster.log(lost[0])
    assert "waiting: alost.parquet (shard " in log, log
    assert "this run stops and writes nothing more" in log, log
    return (
        "both requeued; the one waits for the old process, the other takes over from the silent "
        "one, which wakes up, is fenced off (5) and writes nothing; merged, "
    ) + cluster.check("alost.parquet")


def preempt_requeue(cluster: Cluster) -> str:
    """tasks of an array preempted by a higher partition, PreemptMode=REQUEUE"""
    low, high = _giving_way("REQUEUE")
    job, merge = cluster.submit("submit.sh", "give.parquet", 2, SBATCH_PARTITION=low)
    cluster.wait_for_rows("give.parquet", 6)
    _displace(cluster, f"{job}_1", high)
    expect(cluster.wait(merge), JobState="COMPLETED")
    shown = [cluster.show(f"{job}_{i}") for i in range(4)]
    restarts = [int(task["Restarts"]) for task in shown]
    assert restarts[1] == 1, restarts
    assert max(restarts) == 1, restarts
    said = _stopped_by(cluster.log(f"{job}_1"))
    return f"{sum(restarts)} tasks stopped by {said}, requeued once each; merged, " + cluster.check(
        "give.parquet"
    )


def preempt_cancel(cluster: Cluster) -> str:
    """a job preempted by a higher partition, PreemptMode=CANCEL with GraceTime"""
    low, high = _giving_way("CANCEL")
    [job] = cluster.submit("run.sbatch", "cancelled.parquet", 5, f"--partition={low}")
    cluster.wait_for_rows("cancelled.parquet")
    _displace(cluster, job, high)
    shown = cluster.wait(job)
    said = f"stopped by {_stopped_by(cluster.log(job))}, work saved, "
    if shown["Restarts"] == "0":
        assert shown["JobState"] in ("PREEMPTED", "CANCELLED"), shown["JobState"]
        said += f"{shown['JobState']}; submitted again: "
        [job] = cluster.submit("run.sbatch", "cancelled.parquet", 600, f"--partition={low}")
        shown = cluster.wait(job)
    else:
        said += f"requeued by its script {shown['Restarts']} times, "
    expect(shown, JobState="COMPLETED")
    return said + cluster.check("cancelled.parquet")


def _giving_way(mode: str) -> tuple[str, str]:
    """A partition whose jobs give way in this mode, and one that they give way to."""
    if configured("PreemptType") == "preempt/partition_prio":
        found = list(partitions())
        for low in found:
            for high in found:
                above = int(high["PriorityTier"]) > int(low["PriorityTier"])
                if low["PreemptMode"] == mode and above and high["Nodes"] == low["Nodes"]:
                    return low["PartitionName"], high["PartitionName"]
    raise Skipped(f"no partition here with PreemptMode={mode} below another of the same nodes")


def _displace(cluster: Cluster, job: str, partition: str) -> None:
    """Run a job that needs the whole node of `job`, to its end."""
    options = (f"--partition={partition}", f"--nodelist={cluster.show(job)['NodeList']}")
    command = ("sbatch", "--parsable", *options, "--exclusive", "--output=/dev/null")
    above = slurm(*command, "--wrap", "sleep 3").strip()
    expect(cluster.wait(above), JobState="COMPLETED")


def _stopped_by(log: str) -> str:
    """The signal that a run was stopped by, politely."""
    assert "stopped by SIG" in log, log
    return log.split("stopped by ", 1)[1].split(":")[0]


@contextmanager
def _lost(node: str, jobs: list[str]) -> Iterator[None]:
    """The node's daemons are killed, the jobs' processes stay; afterwards the node comes back."""
    daemons = list(filter(_of_this_cluster, processes(rf"slurmd .*-N {node}$")))
    if not daemons:
        raise Skipped(f"the slurmd of {node} is not on this machine")
    for job in jobs:
        daemons += filter(_of_this_cluster, processes(rf"slurmstepd: \[{job}\."))
    for pid in daemons:
        os.kill(pid, signal.SIGKILL)
    # What they leave becomes an orphaned process group: whoever is frozen by then gets a SIGHUP.
    await_that(lambda: not any(map(_alive, daemons)), "the end of the daemons", 10)
    try:
        yield
    finally:
        slurm("slurmd", "-f", os.environ["SLURM_CONF"], "-N", node)


def _far_batchgen(cluster: Cluster) -> Path:
    """A command for which each node of this machine is a host of its own."""
    if importlib.util.find_spec("batchgen") is None:
        raise Skipped(f"batchgen is not installed for {sys.executable}")
    path = cluster.folder / "far-batchgen"
    path.write_text(_FAR_BATCHGEN.format(python=sys.executable))
    path.chmod(0o755)
    return path


def _at_work(cluster: Cluster, out: str) -> int:
    """Shards with finished rows on disk."""
    return len({path.name.split("-")[1] for path in cluster.parts(out)})


def _of_this_cluster(pid: int) -> bool:
    told = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    return any(os.fsencode(os.environ["SLURM_CONF"]) in text for text in told)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _kill(pid: int) -> None:
    if _alive(pid):
        os.kill(pid, signal.SIGKILL)


ROUGH_CASES: dict[str, Callable[[Cluster], str]] = {
    call.__name__: call for call in (node_lost, array_node_lost, preempt_requeue, preempt_cancel)
}
"""In the order of the table."""
