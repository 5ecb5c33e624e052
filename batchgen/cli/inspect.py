"""`batchgen inspect`: rows of an output; what a model is, and which types can be served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.flags.flag import flag, flag_group
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS, GroupedCommand
from batchgen.cli.flags.place import PLACE
from batchgen.errors import ModelRefusedError, UsageError
from batchgen.lora_config import CONFIG_NAME

if TYPE_CHECKING:
    from batchgen.report.adapter_folder import AdapterReport
    from batchgen.report.gguf_file import GgufReport
    from batchgen.report.model_types import TypesReport, Verdict

__all__ = ["inspect"]

_DEFAULT, _OF_MODELS = "rows", "model"


class _PathGroup(click.Group):
    """Words that are commands, and any other first argument a path: of a model where it ends so,
    of an adapter where it holds one's config, else of an output."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The word's command, else the one that takes a path."""
        if args and args[0] not in self.commands:
            is_model = any(word.lower().endswith(".gguf") or _is_adapter(word) for word in args)
            args = [_OF_MODELS if is_model else _DEFAULT, *args]
        return super().resolve_command(ctx, args)


def _is_adapter(word: str) -> bool:
    return (Path(word) / CONFIG_NAME).is_file()


@click.group(cls=_PathGroup, context_settings=CONTEXT_SETTINGS)
def inspect() -> None:
    """Show rows of an output, or say what can be served.

    \b
    batchgen inspect OUT --failed   # rows by id, by what they hold, beside another output's
    batchgen inspect MODEL.gguf     # what of the file is applied, and what would be refused
    batchgen inspect ADAPTER_DIR    # the same of a LoRA adapter
    batchgen inspect types          # each causal language model type of the installed transformers
    """


@inspect.command(context_settings=CONTEXT_SETTINGS)
@click.argument("names", nargs=-1, metavar="[TYPE]...")
@flag("--json", "as_json", is_flag=True, help="Print one JSON object.")
def types(names: tuple[str, ...], as_json: bool) -> None:
    """Build a tiny model of each TYPE (all, if none is named) and try the proof that a run makes.

    \b
    batchgen inspect types qwen3 mamba
    """
    from batchgen.cli.process.logs import set_up_logs
    from batchgen.report.model_types import report_types

    set_up_logs(quiet=True, verbose=False)
    report = report_types(names, None if as_json else _say)
    click.echo(json.dumps(asdict(report)) if as_json else _summary(report))


@inspect.command(context_settings=CONTEXT_SETTINGS)
@click.argument("path", type=click.Path(path_type=Path))
@flag("--json", "as_json", is_flag=True, help="Print one JSON object.")
def model(path: Path, as_json: bool) -> None:
    """Say what a .gguf file or a LoRA adapter's folder is, what of it is applied, and why a run
    would refuse it.

    Without loading weights; the exit code is 2 where a run would refuse it.

    \b
    batchgen inspect MODEL.gguf
    batchgen inspect ADAPTER_FOLDER
    """
    report, lines = _described(path)
    click.echo(json.dumps(asdict(report)) if as_json else "\n".join(lines))
    if report.refused:
        raise SystemExit(ModelRefusedError.exit_code)


def _described(path: Path) -> tuple[GgufReport | AdapterReport, Iterator[str]]:
    if path.is_dir():
        from batchgen.report import adapter_folder

        adapter = adapter_folder.describe_adapter(path)
        return adapter, adapter_folder.lines_of(adapter)
    from batchgen.report import gguf_file

    file = gguf_file.describe_gguf(path)
    return file, gguf_file.lines_of(file)


@inspect.command(cls=GroupedCommand, context_settings=CONTEXT_SETTINGS)
@click.argument("out", type=PLACE)
@flag_group(
    "Rows",
    flag("--id", "ids", multiple=True, metavar="ID", core=True, help="The row with this id."),
    flag("--rows", "indices", multiple=True, type=int, metavar="N", core=True,
         help="The row of this index; repeats, as --id does."),
    flag("--where", "conditions", multiple=True, metavar="COLUMN=VALUE", core=True,
         help="Rows that hold this (also != < > <= >=, ~ for a regular expression); repeats."),
    flag("--failed", is_flag=True, core=True, help="Failed rows: --where status=error."),
    flag("-n", "--count", "count", type=click.IntRange(min=1), default=10, metavar="N", core=True,
         help="At most so many."),
    flag("--columns", metavar="a,b", core=True, show_default="the usual ones", help="To show."),
    flag("--beside", type=PLACE, metavar="OTHER", core=True,
         help="Another output: the rows of the same ids side by side."),
    flag("--json", "as_json", is_flag=True, core=True, help="A JSON object a row, all columns."),
)  # fmt: skip
@click.pass_context
def rows(ctx: click.Context, /, **flags: Any) -> None:
    """Show rows of an output. The exit code is 1 where none is found.

    \b
    batchgen inspect out.parquet --id row-7
    batchgen inspect out.parquet --where finish_reason=length --beside other.parquet
    """
    from batchgen.cli.screen.rows import USUAL_COLUMNS, row_lines, side_by_side
    from batchgen.report.row_search import Condition, Wanted, beside, find_rows

    if flags["beside"] is not None and flags["as_json"]:
        raise UsageError("--json and --beside are both given", "leave one of them out")
    texts = [*flags["conditions"], *(["status=error"] if flags["failed"] else [])]
    conditions = tuple(Condition.parse(text) for text in texts)
    wanted = Wanted(frozenset(flags["ids"]), frozenset(flags["indices"]), conditions)
    named = [name.strip() for name in flags["columns"].split(",")] if flags["columns"] else None
    columns = named if named or flags["as_json"] else USUAL_COLUMNS
    other = flags["beside"]
    found = find_rows(flags["out"], wanted, columns, flags["count"])
    if other is not None:
        kept = list(found)
        pairs = zip(kept, beside(kept, other, columns or USUAL_COLUMNS), strict=True)
        shown = [side_by_side(row, twin) for row, twin in pairs]
    elif flags["as_json"]:
        shown = [iter([json.dumps(row, default=str, ensure_ascii=False)]) for row in found]
    else:
        shown = [row_lines(row) for row in found]
    for lines in shown:
        click.echo("\n".join(lines))
    if not shown and wanted == Wanted():
        click.echo(f"batchgen: {flags['out']} has no rows", err=True)
    elif not shown:
        click.echo(f"batchgen: {flags['out']} has no such row", err=True)
        click.echo(f"  next: batchgen inspect {flags['out']} shows its first rows", err=True)
        ctx.exit(1)


def _say(verdict: Verdict) -> None:
    reason = f"  {verdict.reason}" if verdict.reason else ""
    click.echo(f"{verdict.model_type:<26}{verdict.outcome:<10}{reason}")


def _summary(report: TypesReport) -> str:
    counted = ", ".join(f"{number} {outcome}" for outcome, number in report.counts.items())
    return f"transformers {report.transformers}, torch {report.torch}: {counted}"
