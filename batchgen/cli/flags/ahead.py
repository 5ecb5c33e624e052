"""The flags of a command that says something of a job before it runs: those of `run`, less what
says nothing of a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from batchgen.cli.flags.flag import Decorated, params_of
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS, GroupedCommand
from batchgen.cli.flags.job import job_options, job_spec
from batchgen.job.spec import JobSpec

__all__ = ["ahead_command", "spec_ahead"]

_OF_A_RUN = ("Output", "Engine", "Resume", "Report")
_OF_ROWS = {
    "keep_columns", "reasoning_parser", "tool_call_parser", "engine", "max_model_len",
    "max_num_seqs", "gpu_memory_utilization", "kv_cache_dtype", "enable_prefix_caching", "fold",
    "deterministic", "shard", "as_json",
}  # fmt: skip


def ahead_command(
    *own: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with flags of its own before those of `run`, of which only the verb changes."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        command = _run_options(click.pass_context(function))
        for flags in own:
            command = flags(command)
        return click.command(cls=GroupedCommand, context_settings=CONTEXT_SETTINGS)(command)

    return decorate


def _run_options(command: Decorated) -> Decorated:
    """Those that say nothing of a row are taken and not shown."""
    command = job_options(command)
    for param in params_of(command):
        if param.section in _OF_A_RUN and param.name not in _OF_ROWS:
            param.hidden, param.required = True, False
        if param.name == "as_json":
            param.core, param.help = True, "JSON, for programs."
    return command


def spec_ahead(flags: dict[str, Any]) -> JobSpec:
    """The job that `run` would make of these flags; a shard only where one is named."""
    out, shard = flags["out"] or Path("-"), flags["shard"] or "none"
    return job_spec(flags | {"out": out, "shard": shard, "join": False})
