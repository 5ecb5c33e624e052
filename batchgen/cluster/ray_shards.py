"""The shards of a job as tasks of a Ray cluster. Order, resume and merge stay batchgen's.

A task runs one shard in the worker's own process, as `batchgen run --shard I/N` would, and the
worker ends with it, which frees its GPU whole. Where a worker or its node dies Ray starts the task
again, elsewhere perhaps, and the shard goes on from the rows that it had finished. Where the driver
dies, its tasks die with it, and the same command goes on. All nodes must see the same files.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from batchgen.errors import BatchgenError, UsageError
from batchgen.job.redaction import redacted
from batchgen.job.run.runner import run as run_job
from batchgen.job.shard import Shard
from batchgen.job.spec import JobSpec
from batchgen.job.stopping.signals import Stop

__all__ = ["RayOptions", "ShardResult", "run_shards"]

_POLL_S = 1.0
_KNOCK_S = 10.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where and with what the shards run. `max_retries`: restarts of a shard whose worker died;
    those of a node that was preempted or drained do not count."""

    shards: int
    address: str = "auto"
    num_gpus: float = 0.0
    num_cpus: float = 1.0
    max_retries: int = 20


@dataclass(frozen=True, slots=True)
class ShardResult:
    """How one shard ended. `message` is empty where it is complete."""

    shard: str
    exit_code: int
    rows: int = 0
    errors: int = 0
    message: str = ""
    hint: str = ""


def _import_ray() -> Any:
    """The package. Raises UsageError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "ray is not installed", "pip install 'batchgen-llm[ray]', the cluster's version"
        ) from error
    return ray


def run_shards(spec: JobSpec, options: RayOptions, say: Say) -> list[ShardResult]:
    """Run every shard to its end; results in the order of shards. `say` tells how it goes.

    Raises UsageError where there is no cluster.
    """
    ray = _import_ray()
    mine = not ray.is_initialized()
    with redirect_stdout(sys.stderr):  # Ray tells of dead workers there
        if mine:
            _connect(ray, options)
        try:
            _tell_lacking(ray, options, say)
            return _finish(ray, _submit(ray, spec, options), say)
        finally:
            if mine:
                ray.shutdown()


def _connect(ray: Any, options: RayOptions) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _knock(options.address)
        ray.init(address=options.address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster at {options.address}: {str(error).splitlines()[0]}",
            "start one with `ray start --head`, or name it with --ray-address",
        ) from error


def _knock(address: str) -> None:
    """Raises OSError where nobody answers at HOST:PORT: Ray itself tries for two minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), _KNOCK_S).close()


def _tell_lacking(ray: Any, options: RayOptions, say: Say) -> None:
    """A task that no node can hold waits for ever, unless the cluster grows."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = {"GPU": options.num_gpus, "CPU": options.num_cpus}
    if not any(all(node.get(k, 0) >= n for k, n in wanted.items()) for node in nodes):
        text = ", ".join(f"{n:g} {name}" for name, n in wanted.items() if n)
        say(f"no node of the cluster has {text}: shards wait until one comes (Ctrl-C ends this)")


def _submit(ray: Any, spec: JobSpec, options: RayOptions) -> dict[Any, int]:
    """Task -> shard."""
    task = ray.remote(max_calls=1)(_run_shard)
    path = [entry for entry in sys.path if entry]
    tasks = {}
    for index in range(options.shards):
        placed = task.options(
            name=f"batchgen shard {index}/{options.shards}",
            num_gpus=options.num_gpus,
            num_cpus=options.num_cpus,
            max_retries=options.max_retries,
            scheduling_strategy="SPREAD",
        )
        shard = _of_shard(spec, index, options.shards)
        tasks[placed.remote(shard, os.getcwd(), path)] = index
    return tasks


def _of_shard(spec: JobSpec, index: int, count: int) -> JobSpec:
    """Waits for a dead predecessor on another node, and leaves failed rows to the merge."""
    shard = Shard(index, count, "batchgen ray")
    return replace(
        spec, shard=shard, lock="wait", max_failures="100%", quiet=True, summary=None,
        progress="none",
    )  # fmt: skip


def _finish(ray: Any, tasks: dict[Any, int], say: Say) -> list[ShardResult]:
    results: dict[int, ShardResult] = {}
    waiting = list(tasks)
    try:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=_POLL_S)
            for task in done:
                result = _result_of(ray, task, f"{tasks[task]}/{len(tasks)}")
                results[tasks[task]] = result
                end = result.message or f"{result.rows:,} rows"
                say(f"shard {result.shard}: {end}; {len(results)} of {len(tasks)} ended")
    except BaseException:
        for task in waiting:
            ray.cancel(task, force=True)
        raise
    return [results[index] for index in sorted(results)]


def _result_of(ray: Any, task: Any, shard: str) -> ShardResult:
    try:
        result: ShardResult = ray.get(task)
        return result
    except ray.exceptions.RayError as error:  # its workers died too often, or it did not begin
        text = redacted(f"Ray gave it up: {str(error).strip().splitlines()[0]}")
        return ShardResult(shard, 1, message=text, hint="look at Ray's logs, then run again")


def _run_shard(spec: JobSpec, folder: str, path: list[str]) -> ShardResult:
    """In a worker. What the job raises comes back as text: an exception would be tried again."""
    sys.path.extend(entry for entry in path if entry not in sys.path)
    shard = str(spec.shard)
    try:
        os.chdir(folder)
        summary = run_job(spec, stop=Stop())
    except BatchgenError as error:
        return ShardResult(shard, error.exit_code, message=error.message, hint=error.hint or "")
    except OSError as error:
        text = f"{folder} on {os.uname().nodename}: {error.strerror}"
        return ShardResult(shard, 66, message=text, hint="all nodes must see the same folders")
    message = "stopped before its end" if summary.exit_code == 75 else ""
    return ShardResult(shard, summary.exit_code, summary.rows, summary.errors, message)
