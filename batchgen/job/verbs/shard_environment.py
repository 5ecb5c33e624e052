"""Which shard a process is, as its scheduler tells: only where that is safe (INTERFACE: Shards).

A Slurm array that was submitted again for its failed tasks alone has another COUNT: shards taken
from it would leave rows out or compute them twice, so it is refused with the flag to write.
"""

from __future__ import annotations

from collections.abc import Mapping

from batchgen.counts import counted
from batchgen.errors import UsageError
from batchgen.job.shard import Shard, parse_shard

__all__ = ["chosen_shard"]

_NO_SHARD = "none"
_WRITE_ARRAY = (
    'write --shard "$SLURM_ARRAY_TASK_ID/N", N being the shards that the job was first split into '
    "(or --shard none for all rows)"
)


def chosen_shard(given: str | None, environment: Mapping[str, str]) -> Shard | None:
    """The flag's shard, else the environment's; None: all rows. Raises UsageError.

    An environment of one process alone is no shard: that process writes the output itself.
    """
    if given is not None:
        return None if given.strip().lower() == _NO_SHARD else parse_shard(given)
    _refuse_heterogeneous(environment)
    for found in (_of_array(environment), _of_step(environment), _of_ranks(environment)):
        if found is not None:
            return found if found.count > 1 else None
    return None


def _refuse_heterogeneous(environment: Mapping[str, str]) -> None:
    """The components of such a job number their tasks each for itself, on unlike nodes."""
    size = _number(environment, "SLURM_HET_SIZE")
    if size is not None and size > 1:
        raise UsageError(
            f"this is a heterogeneous Slurm job of {size} components: their tasks' numbers make no "
            "shards",
            "write --shard I/N for each component's tasks, or --join, which needs no numbers "
            "(or --shard none for all rows)",
        )


def _of_array(environment: Mapping[str, str]) -> Shard | None:
    """A task of a whole Slurm array 0 to COUNT - 1."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    task, count, least, most = (
        _number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT", "MIN", "MAX")
    )
    if task is None or count is None or least != 0 or most is None or most + 1 != count:
        tasks = "tasks" if count is None else counted(count, "task")
        raise UsageError(
            f"this Slurm array has {tasks} numbered {least} to {most}: they are not "
            "0 to COUNT - 1, so its shards cannot be told from it",
            _WRITE_ARRAY,
        )
    step = _of_step(environment)
    if count > 1 and step is not None and step.count > 1:
        raise UsageError(
            f"each of the {count} tasks of this Slurm array runs {step.count} processes: which "
            "shard this one is cannot be told",
            f'write --shard "$((SLURM_ARRAY_TASK_ID * {step.count} + SLURM_PROCID))/'
            f'{count * step.count}" in what srun starts',
        )
    return Shard(task, count, "SLURM_ARRAY_TASK_ID")


def _of_step(environment: Mapping[str, str]) -> Shard | None:
    """A task of an srun step; in a batch script the same names mean something else."""
    if not environment.keys() & {"SLURM_STEP_ID", "SLURM_STEPID"}:
        return None
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    return _pair(environment, "SLURM_PROCID", tasks)


def _of_ranks(environment: Mapping[str, str]) -> Shard | None:
    """A process of torchrun or of anything else that sets RANK and WORLD_SIZE."""
    return _pair(environment, "RANK", "WORLD_SIZE")


def _pair(environment: Mapping[str, str], place: str, size: str) -> Shard | None:
    if place not in environment or size not in environment:
        return None
    index, count = _number(environment, place), _number(environment, size)
    if index is None or count is None or not index < count:
        raise UsageError(
            f"{place}={environment[place]!r} of {size}={environment[size]!r} names no shard",
            "write --shard I/N, or --shard none for all rows",
        )
    return Shard(index, count, place)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
