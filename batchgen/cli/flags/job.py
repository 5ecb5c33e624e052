"""All the flags of a job, and the frozen `JobSpec` that they make.

A flag's Python name is the field it fills in `job.spec`.
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import click

from batchgen.cli.flags.engine import engine_options
from batchgen.cli.flags.flag import Decorated
from batchgen.cli.flags.input import input_options
from batchgen.cli.flags.model import model_options
from batchgen.cli.flags.output import output_options
from batchgen.cli.flags.report import report_options
from batchgen.cli.flags.resume import resume_options
from batchgen.cli.flags.sampling import sampling_options
from batchgen.errors import UsageError
from batchgen.job.shard import Shard
from batchgen.job.spec import InputSpec, JobSpec
from batchgen.job.verbs.shard_environment import chosen_shard

__all__ = ["job_options", "job_spec"]

_SAMPLING = (
    "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "stop", "stop_token_ids", "ignore_eos", "n", "seed",
    "logprobs", "top_logprobs", "choices", "reasoning_budget", "skip_special_tokens",
    "include_stop_str_in_output",
)  # fmt: skip


def job_options(command: Decorated) -> Decorated:
    """All the options of a job, in the order that the help shows them."""
    groups = (input_options, output_options, model_options, sampling_options, engine_options,
              resume_options, report_options)  # fmt: skip
    for group in reversed(groups):
        command = group(command)
    return command


def job_spec(flags: dict[str, Any]) -> JobSpec:
    """The frozen job of these flags; only sampling flags that were given become defaults."""
    from batchgen.engine.processes.devices import own_device
    from batchgen.job.fields.params import scoring

    input_names = {field.name for field in fields(InputSpec)}
    job_names = {field.name for field in fields(JobSpec)} - {"input", "sampling", "shard"}
    given = {name: flags[name] for name in _SAMPLING if flags[name] not in (None, ())}
    if flags["score"]:
        given |= scoring(given)
    _refuse_folder(flags)
    flags = flags | {"device": own_device(flags["device"], os.environ, flags["tensor_parallel"])}
    return JobSpec(
        input=InputSpec(**{name: flags[name] for name in input_names}),
        sampling=given,
        shard=_shard(flags),
        **{name: flags[name] for name in job_names if name in flags},
    )


def _refuse_folder(flags: dict[str, Any]) -> None:
    ctx, out = click.get_current_context(silent=True), flags["out"]
    if ctx is not None and ctx.meta.get("batchgen.folder.out") and not flags["rows_per_file"]:
        raise UsageError(
            f"--out {out}/ names a folder, and the output is one file",
            f"name it, such as {out}/out.parquet; or --rows-per-file N for a folder of files",
        )


def _shard(flags: dict[str, Any]) -> Shard | None:
    """With --join a scheduler's number of tasks is no split of the rows."""
    if not flags["join"]:
        return chosen_shard(flags["shard"], os.environ)
    if flags["shard"] not in (None, "none"):
        raise UsageError("--shard and --join are both given", "leave one of them out")
    return None
