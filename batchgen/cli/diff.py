"""`batchgen diff`: whether two outputs say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from batchgen.cli.flags.flag import flag
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS
from batchgen.cli.flags.place import PLACE
from batchgen.counts import counted
from batchgen.job.stores.places import Place

if TYPE_CHECKING:
    from batchgen.job.verbs.compare import Comparison, Difference
    from batchgen.job.verbs.gold import Judgement

__all__ = ["diff"]


_SHOWN_CHARS = 72
_SHOWN_COLUMNS = 40


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("a", type=PLACE)
@click.argument("b", type=PLACE, required=False)
@flag("--on", default="index", help="Column that says which rows belong together: index or id.")
@flag("--columns", help="Columns to compare, a,b. [default: all but times and run facts]")
@flag("--gold", help="Compare A's completions with these columns of right answers instead of B.")
@flag(
    "--at-least",
    type=click.FloatRange(0, 100),
    default=100,
    help="With --gold: percent of rows for exit 0.",
)
@flag("--show", type=click.IntRange(0), default=10, help="How many differences to print.")
@flag("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def diff(
    ctx: click.Context,
    a: Place,
    b: Place | None,
    on: str,
    columns: str | None,
    gold: str | None,
    at_least: float,
    show: int,
    as_json: bool,
) -> None:
    """Compare two outputs row by row, or one with right answers that its input had.

    Exit 0 when all rows are equal (with --gold: at least so many right), 1 when not.

    \b
    batchgen diff a.parquet b.parquet --on id --columns completion
    batchgen diff a.parquet --gold label,order     # columns against fields of JSON completions
    """
    if (b is None) == (gold is None):
        one = "" if b is None else ", not both"
        raise click.UsageError(f"Give a second output to compare with, or --gold COLUMNS{one}.")
    if gold is not None:
        if columns is not None:
            raise click.UsageError(
                "--columns names what to compare with B: with --gold name it there."
            )
        _judge(ctx, a, _names(gold), on, at_least, show, as_json)
    else:
        if ctx.get_parameter_source("at_least") is not ParameterSource.DEFAULT:
            raise click.UsageError("--at-least counts right answers: it needs --gold COLUMNS.")
        assert b is not None
        _compare(ctx, a, b, _names(columns), on, show, as_json)


def _names(columns: str | None) -> list[str]:
    return [name.strip() for name in columns.split(",")] if columns else []


def _compare(
    ctx: click.Context, a: Place, b: Place, names: list[str], on: str, show: int, as_json: bool
) -> None:
    from batchgen.job.verbs.compare import compare
    from batchgen.job.verbs.expected import expectation

    result = compare(a, b, on, names, show)
    said = [] if result.same else expectation(a, b)
    text = _as_text(result, on, said)
    facts = {"same": result.same, "percent_equal": result.percent_equal, **asdict(result)}
    click.echo(json.dumps({**facts, "because": said}, default=str) if as_json else text)
    ctx.exit(0 if result.same else 1)


def _judge(
    ctx: click.Context,
    a: Place,
    gold: list[str],
    on: str,
    at_least: float,
    show: int,
    as_json: bool,
) -> None:
    from batchgen.job.verbs.gold import judge

    found = judge(a, gold, on, show)
    enough = found.rows > 0 and found.percent_right >= at_least
    facts = {"percent_right": found.percent_right} | asdict(found)
    click.echo(json.dumps(facts, default=str) if as_json else _as_marks(found, on))
    ctx.exit(0 if enough else 1)


def _as_marks(found: Judgement, on: str) -> str:
    lines = [
        f"{found.right:,} of {counted(found.rows, 'row')} wholly right "
        f"({found.percent_right:.1f}%)",
        *(f"  {name}: {right:,} right" for name, right in found.fields.items()),
        *_differing(found.wrong, on),
    ]
    more = found.rows - found.right - len(found.wrong)
    return "\n".join(lines + ([f"and {more:,} more"] if more else []))


def _few(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_COLUMNS
    return ", ".join(names[:_SHOWN_COLUMNS]) + (f" and {more:,} more" if more > 0 else "")


def _as_text(result: Comparison, on: str, said: list[str]) -> str:
    lines = [
        f"{result.equal:,} of {counted(max(result.rows_a, result.rows_b), 'row')} equal "
        f"({_percent(result)}) in {_few(result.columns)}"
    ]
    for which, names in (("first", result.columns_only_a), ("second", result.columns_only_b)):
        if names:
            lines.append(f"columns only in the {which}: {_few(names)}")
    only = (("first", result.only_a, result.rows_a), ("second", result.only_b, result.rows_b))
    for which, keys, rows in only:
        if rows > result.common:
            shown = ", ".join(f"{on} {key[0]} sample {key[1]}" for key in keys)
            lines.append(f"{counted(rows - result.common, 'row')} only in the {which}: {shown}")
    lines += _differing(result.differences, on)
    more = result.common - result.equal - len(result.differences)
    return "\n".join(lines + ([f"and {more:,} more"] if more else []) + said)


def _differing(differences: list[Difference], on: str) -> Iterator[str]:
    for difference in differences:
        yield f"{on} {difference.key[0]} sample {difference.key[1]}:"
        for name, (old, new) in difference.columns.items():
            yield f"  {name}:\n    - {_shown(old)}\n    + {_shown(new)}"


def _percent(result: Comparison) -> str:
    """Never 100% where something differs."""
    text = f"{result.percent_equal:.2f}%"
    return text if result.same or text != "100.00%" else ">99.99%"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
