"""A job on a real Ray cluster of several nodes: whatever dies, the output is an unbroken run's.

Needs ray (`jobs/check_ray.sh` runs it and prints a table); skipped elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from echo_runs import batchgen, batchgen_command, environment, prompts, stable, write_rows

from batchgen.cli.main import cli
from batchgen.job.spec import InputSpec, JobSpec

pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ray = pytest.importorskip("ray")

ROWS, SHARDS = 160, 4
MEMORY = 100 * 1024 * 1024
SLOW = "slow:at=engine.step,seconds=0.15,rows=1"
ENDS_S = 120.0


def told(fault: str, outcome: str) -> None:
    """A line of the table of `jobs/check_ray.sh`."""
    table = os.environ.get("RAY_TABLE")
    if table:
        with open(table, "a") as file:
            file.write(f"| {fault} | {outcome} |\n")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes of two CPUs, whose workers run a slow engine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DEDUP_LOGS", "0")
        patch.setenv("BATCHGEN_FAULT", SLOW)
        head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
        made = Cluster(initialize_head=True, connect=False, head_node_args=head)
        made.nodes = [add_node(made) for _ in range(2)]
        yield made
        made.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=2, object_store_memory=MEMORY)


class Job:
    """One job over four shards on the cluster."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.cluster, self.out = cluster, folder / "out.parquet"
        self.source = write_rows(folder / "in.jsonl", prompts(ROWS))
        self.whole = folder / "whole.parquet"
        batchgen("run", "-i", self.source, "-o", self.whole, "--engine", "echo")

    def start(self) -> subprocess.Popen[str]:
        command = batchgen_command(
            "ray", "run", "--ray-address", self.cluster.address, "--shards", SHARDS,
            "-i", self.source, "-o", self.out, "--engine", "echo", "--checkpoint-every", 3,
        )  # fmt: skip
        return subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def running(self) -> list[dict[str, Any]]:
        """Shards at work that have finished some rows."""
        found = CliRunner().invoke(cli, ["status", str(self.out), "--json"])
        if found.exit_code:
            return []
        shards = json.loads(found.stdout)["shards"]
        return [s for s in shards if s["state"] == "running" and s["rows_written"] > 2]

    def wait_until(self, ready: Callable[[], Any], driver: subprocess.Popen[str]) -> Any:
        deadline = time.monotonic() + ENDS_S
        while not (found := ready()):
            assert driver.poll() is None, driver.communicate(timeout=60)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return found

    def ends_whole(self, driver: subprocess.Popen[str]) -> str:
        out, err = driver.communicate(timeout=ENDS_S)
        assert driver.returncode == 0, err
        assert json.loads(out)["rows"] == ROWS
        assert stable(self.out).equals(stable(self.whole))
        table = stable(self.out)
        assert table["index"].to_pylist() == [*range(ROWS)]
        return "exit 0; equal to an unbroken run's, each row once"


@pytest.fixture
def job(cluster: Any, tmp_path: Path) -> Job:
    return Job(cluster, tmp_path)


def test_shards_run_as_tasks_and_are_merged(job: Job) -> None:
    outcome = job.ends_whole(job.start())
    again = job.start()
    assert job.ends_whole(again)
    told("none", outcome)


def test_a_killed_worker_costs_only_its_shards_last_rows(job: Job) -> None:
    driver = job.start()
    shard = job.wait_until(job.running, driver)[0]
    os.kill(shard["owner"]["pid"], signal.SIGKILL)
    told("worker, kill -9", job.ends_whole(driver))


def test_a_killed_driver_is_continued_by_the_same_command(job: Job) -> None:
    driver = job.start()
    job.wait_until(job.running, driver)
    driver.kill()
    driver.communicate(timeout=60)
    parts = len(list((job.out.parent / "out.parquet.ckpt" / "parts").iterdir()))
    assert parts
    told("driver, kill -9, then the same command", job.ends_whole(job.start()))


def test_a_killed_nodes_shards_go_on_elsewhere(job: Job) -> None:
    driver = job.start()
    job.wait_until(lambda: len(job.running()) > 2, driver)
    job.cluster.remove_node(job.cluster.nodes.pop(), allow_graceful=False)
    told("node, killed", job.ends_whole(driver))
    job.cluster.nodes.append(add_node(job.cluster))


def test_a_drained_nodes_shards_go_on_elsewhere(job: Job) -> None:
    driver = job.start()
    job.wait_until(lambda: len(job.running()) > 2, driver)
    node = job.cluster.nodes.pop()
    drained = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "drain-node",
         "--address", job.cluster.address, "--node-id", node.node_id,
         "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test",
         "--deadline-remaining-seconds", "2"],
        capture_output=True, text=True, env=environment(),
        timeout=120,
    )  # fmt: skip
    assert drained.returncode == 0, drained.stderr + drained.stdout
    time.sleep(2)
    job.cluster.remove_node(node, allow_graceful=True)  # as its cloud does at the deadline
    told("node, drained (2 s) and gone", job.ends_whole(driver))
    job.cluster.nodes.append(add_node(job.cluster))


def test_a_task_gets_the_gpus_that_its_model_needs(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPUs are claimed, not there: Ray gives them out all the same."""
    from batchgen.cli.ray import gpus_of
    from batchgen.cluster import ray_shards

    def look(spec: JobSpec, folder: str, path: list[str]) -> ray_shards.ShardResult:
        assert spec.shard is not None
        meeting = tmp_path / str(spec.tensor_parallel)
        meeting.mkdir(exist_ok=True)
        (meeting / str(spec.shard.index)).touch()
        until = time.monotonic() + ENDS_S
        while len(list(meeting.iterdir())) < spec.shard.count and time.monotonic() < until:
            time.sleep(0.1)  # else one worker may do both before another one has started
        return ray_shards.ShardResult(
            str(spec.shard), 0, message=os.environ["CUDA_VISIBLE_DEVICES"]
        )

    monkeypatch.setattr(ray_shards, "_run_shard", look)
    node = cluster.add_node(
        num_cpus=2, num_gpus=2, resources={"gpus": 1}, object_store_memory=MEMORY
    )
    seen = {}
    for size, shards in ((1, 2), (2, 1)):
        spec = JobSpec(InputSpec(("in.jsonl",)), tmp_path / "out.parquet", tensor_parallel=size)
        options = ray_shards.RayOptions(shards, cluster.address, gpus_of(spec))
        results = ray_shards.run_shards(spec, options, lambda text: None)
        seen[size] = sorted(result.message for result in results)
    cluster.remove_node(node)
    assert seen == {1: ["0", "1"], 2: ["0,1"]}
    told("none; a node with two GPUs", "a task sees one; both with `--tensor-parallel 2`")


def test_no_cluster_is_a_usage_error(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(2))
    result = batchgen(
        "ray", "run", "--ray-address", "127.0.0.1:1", "--shards", 2, "-i", source,
        "-o", tmp_path / "o.parquet", "--engine", "echo",
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert "no Ray cluster at 127.0.0.1:1" in result.stderr


MAPPED = """
import os, signal, sys, ray
from batchgen.cluster.ray import Completions

class Dying(Completions):
    def __init__(self, mark, **options):
        super().__init__(**options)
        self.mark = mark

    def __call__(self, batch):
        if self.mark and not os.path.exists(self.mark):
            open(self.mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
rows = ray.data.from_items([{"id": str(i), "prompt": f"number {i}", "n": 2} for i in range(60)])
done = rows.map_batches(
    Dying, batch_size=10,
    fn_constructor_kwargs={"mark": sys.argv[2], "engine": "echo", "max_tokens": 9},
    concurrency=(1, 2), num_cpus=1, batch_format="pyarrow",
)
found = sorted((int(row["id"]), row["sample"], row["completion"]) for row in done.take_all())
assert found == [(i, s, f"number {i}"[:9]) for i in range(60) for s in range(2)], found[:5]
print("whole")
"""


@pytest.mark.parametrize("dies", [False, True])
def test_map_batches_gives_every_row_its_completion(
    cluster: Any, tmp_path: Path, dies: bool
) -> None:
    script = tmp_path / "mapped.py"
    script.write_text(MAPPED)
    mark = str(tmp_path / "died") if dies else ""
    command = [sys.executable, str(script), cluster.address, mark]
    result = subprocess.run(
        command, env=environment(RAY_DATA_DISABLE_PROGRESS_BARS="1"), capture_output=True,
        text=True, timeout=ENDS_S,
    )  # fmt: skip
    assert "whole" in result.stdout, result.stderr[-3000:]
    if dies:
        assert os.path.exists(mark)
        told("actor of map_batches, kill -9", "its block is computed again; every row once")


def test_map_batches_refuses_rows_without_an_id() -> None:
    from batchgen.cluster.ray import Completions
    from batchgen.errors import UsageError

    made = Completions(engine="echo")
    with pytest.raises(UsageError, match="draws are keyed by it"):
        made({"prompt": ["a"]})
    assert made({"prompt": ["a"], "id": ["x"]})["completion"].to_pylist() == ["a"]
