"""`batchgen preview`: prompts as the model will see them, and where each setting came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from batchgen.cli import options
from batchgen.cli.flags import (
    CONTEXT_SETTINGS,
    Decorated,
    GroupedCommand,
    flag,
    flag_group,
    params_of,
)
from batchgen.cli.run import job_spec
from batchgen.counts import counted
from batchgen.job.spec import JobSpec

if TYPE_CHECKING:
    from batchgen.job.ahead.preview import RowPreview, Setting
    from batchgen.job.model.files import ModelFiles

__all__ = ["ahead_command", "prepared", "preview", "set_by", "spec_ahead"]

_OF_A_RUN = ("Output", "Engine", "Resume", "Report")
_OF_ROWS = {
    "keep_columns", "reasoning_parser", "tool_call_parser", "engine", "max_model_len",
    "max_num_seqs", "gpu_memory_utilization", "kv_cache_dtype", "enable_prefix_caching", "fold",
    "deterministic", "shard", "as_json",
}  # fmt: skip
_ORIGINS = {ParameterSource.COMMANDLINE: "flag", ParameterSource.ENVIRONMENT: "environment"}


def _indices(ctx: click.Context, param: click.Parameter, value: str | None) -> frozenset[int]:
    """`5,17`: the rows' `index`, from 0."""
    try:
        return frozenset(int(one) for one in (value or "").split(",") if one.strip())
    except ValueError:
        raise click.BadParameter("write row indices, such as 5,17", ctx, param) from None


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
    command = options.job_options(command)
    for param in params_of(command):
        if param.section in _OF_A_RUN and param.name not in _OF_ROWS:
            param.hidden, param.required = True, False
        if param.name == "as_json":
            param.core, param.help = True, "JSON, for programs."
    return command


_which = flag_group(
    "Rows",
    flag("-n", "--count", "count", type=click.IntRange(min=0), default=3, metavar="N", core=True,
         help="The first N rows."),
    flag("--rows", "indices", metavar="5,17", callback=_indices, core=True,
         help="These rows instead, by index from 0."),
    flag("--id", "ids", multiple=True, metavar="ID", core=True, help="The row with this id."),
)  # fmt: skip


@ahead_command(_which)
def preview(ctx: click.Context, /, **flags: Any) -> None:
    """Show prompts as the model will see them, and where each setting came from. No torch.

    \b
    batchgen preview --in prompts.jsonl -n 3 --model Qwen/Qwen3-0.6B
    """
    from batchgen.job.ahead.opening import opened
    from batchgen.job.ahead.preview import Wanted, previews
    from batchgen.job.model.files import model_of

    spec = spec_ahead(flags)
    files = model_of(spec)
    prepared(files, own_process=ctx.obj is True)
    wanted = Wanted(flags["count"], flags["indices"], frozenset(flags["ids"]))
    shown = 0
    with opened(spec, files) as job:
        for row in previews(job, wanted, set_by(ctx)):
            shown += 1
            click.echo(_as_json(row) if flags["as_json"] else _text(row))
    missing = len(wanted.indices) + len(wanted.ids) - shown
    if missing > 0:
        click.echo(f"batchgen: {counted(missing, 'row')} asked for not found", err=True)
        ctx.exit(1)


def spec_ahead(flags: dict[str, Any]) -> JobSpec:
    """The job that `run` would make of these flags; a shard only where one is named."""
    out, shard = flags["out"] or Path("-"), flags["shard"] or "none"
    return job_spec(flags | {"out": out, "shard": shard, "join": False})


def prepared(files: ModelFiles | None, *, own_process: bool) -> None:
    """Quick imports, where the process is ours."""
    if own_process and files is not None:
        from batchgen.engine.processes.preparing import prepare_tokenizer

        prepare_tokenizer(files.facts)


def set_by(ctx: click.Context) -> dict[str, str]:
    """Parameter -> `flag` or `environment`, of those that were given."""
    found = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name: _ORIGINS[source] for name, source in found.items() if source in _ORIGINS}


def _as_json(row: RowPreview) -> str:
    return json.dumps({**asdict(row), "num_tokens": row.num_tokens}, default=str)


def _text(row: RowPreview) -> str:
    head = f"{row.origin}: index {row.index}, id {json.dumps(row.id)}"
    if row.error_code is not None:
        return f"{head}: {row.error_code}: {row.error_message}\n"
    tokens = " ".join(f"{one}{json.dumps(piece, ensure_ascii=False)}" for one, piece in
                      zip(row.token_ids, row.pieces, strict=True))  # fmt: skip
    cut = ", cut to fit" if row.cut else ""
    settings = "\n".join(f"  {name} = {_value(one)}" for name, one in row.settings.items())
    prompt = "(token ids)" if row.prompt is None else row.prompt
    return (
        f"{head}: {counted(row.num_tokens, 'token')}{cut}\n--- prompt\n{prompt}\n"
        f"--- tokens\n{tokens}\n--- settings\n{settings}\n"
    )


def _value(one: Setting) -> str:
    return f"{json.dumps(one.value, ensure_ascii=False, default=str)} ({one.origin})"
