"""`batchgen preview`: prompts as the model will see them, and where each setting came from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from batchgen.cli.flags.ahead import ahead_command, spec_ahead
from batchgen.cli.flags.flag import flag, flag_group
from batchgen.cli.process.prepare_ahead import prepare_ahead
from batchgen.counts import counted

if TYPE_CHECKING:
    from batchgen.job.ahead.preview import RowPreview, Setting

__all__ = ["preview"]

_ORIGINS = {ParameterSource.COMMANDLINE: "flag", ParameterSource.ENVIRONMENT: "environment"}


def _indices(ctx: click.Context, param: click.Parameter, value: str | None) -> frozenset[int]:
    """`5,17`: the rows' `index`, from 0."""
    try:
        return frozenset(int(one) for one in (value or "").split(",") if one.strip())
    except ValueError:
        raise click.BadParameter("write row indices, such as 5,17", ctx, param) from None


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
    prepare_ahead(files, own_process=ctx.obj is True)
    wanted = Wanted(flags["count"], flags["indices"], frozenset(flags["ids"]))
    shown = 0
    with opened(spec, files) as job:
        for row in previews(job, wanted, _set_by(ctx)):
            shown += 1
            click.echo(_as_json(row) if flags["as_json"] else _text(row))
    missing = len(wanted.indices) + len(wanted.ids) - shown
    if missing > 0:
        click.echo(f"batchgen: {counted(missing, 'row')} asked for not found", err=True)
        ctx.exit(1)


def _set_by(ctx: click.Context) -> dict[str, str]:
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
