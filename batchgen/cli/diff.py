"""`batchgen diff`: whether two outputs say the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.flags import CONTEXT_SETTINGS, PLACE, flag
from batchgen.counts import counted
from batchgen.job.stores.places import Place

if TYPE_CHECKING:
    from batchgen.job.verbs.compare import Comparison

__all__ = ["diff"]


_SHOWN_CHARS = 72


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("a", type=PLACE)
@click.argument("b", type=PLACE)
@flag("--on", default="index", help="Column that says which rows belong together: index or id.")
@flag("--columns", help="Columns to compare, a,b. [default: all but times and run facts]")
@flag("--show", type=click.IntRange(0), default=10, help="How many differences to print.")
@flag("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def diff(
    ctx: click.Context, a: Place, b: Place, on: str, columns: str | None, show: int, as_json: bool
) -> None:
    """Compare two outputs row by row; exit 0 when they are equal, 1 when not.

    \b
    batchgen diff a.parquet b.parquet --on id --columns completion
    """
    from batchgen.job.verbs.compare import compare

    names = [name.strip() for name in columns.split(",")] if columns else []
    result = compare(a, b, on, names, show)
    click.echo(json.dumps(_as_json(result), default=str) if as_json else _as_text(result, on))
    ctx.exit(0 if result.same else 1)


def _as_json(result: Comparison) -> dict[str, Any]:
    return {"same": result.same, "percent_equal": result.percent_equal} | asdict(result)


def _as_text(result: Comparison, on: str) -> str:
    lines = [
        f"{result.equal:,} of {counted(max(result.rows_a, result.rows_b), 'row')} equal "
        f"({_percent(result)}) in {', '.join(result.columns)}"
    ]
    for which, names in (("first", result.columns_only_a), ("second", result.columns_only_b)):
        if names:
            lines.append(f"columns only in the {which}: {', '.join(names)}")
    only = (("first", result.only_a, result.rows_a), ("second", result.only_b, result.rows_b))
    for which, keys, rows in only:
        if rows > result.common:
            shown = ", ".join(f"{on} {key[0]} sample {key[1]}" for key in keys)
            lines.append(f"{counted(rows - result.common, 'row')} only in the {which}: {shown}")
    for difference in result.differences:
        lines.append(f"{on} {difference.key[0]} sample {difference.key[1]}:")
        lines += [
            f"  {name}:\n    - {_shown(old)}\n    + {_shown(new)}"
            for name, (old, new) in difference.columns.items()
        ]
    more = result.common - result.equal - len(result.differences)
    return "\n".join(lines + ([f"and {more:,} more"] if more else []))


def _percent(result: Comparison) -> str:
    """Never 100% where something differs."""
    text = f"{result.percent_equal:.2f}%"
    return text if result.same or text != "100.00%" else ">99.99%"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
