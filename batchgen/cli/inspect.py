"""`batchgen inspect`: what a model is, and which model types this installation can serve."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchgen.cli.flags import CONTEXT_SETTINGS, flag
from batchgen.errors import ModelRefusedError

if TYPE_CHECKING:
    from batchgen.report.model_types import TypesReport, Verdict

__all__ = ["inspect"]

_DEFAULT = "model"


class _PathGroup(click.Group):
    """Words that are commands, and any other first argument a path: `inspect model PATH`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The word's command, else the one that takes a path."""
        if args and args[0] not in self.commands and _DEFAULT in self.commands:
            args = [_DEFAULT, *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_PathGroup, context_settings=CONTEXT_SETTINGS)
def inspect() -> None:
    """Say what can be served.

    \b
    batchgen inspect MODEL.gguf     # what of the file is applied, and what would be refused
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
    """Say what a .gguf file is, what of it is applied, and why a run would refuse it.

    Without loading weights; the exit code is 2 where a run would refuse it.

    \b
    batchgen inspect MODEL.gguf
    """
    from batchgen.report.gguf_file import describe_gguf, lines_of

    found = describe_gguf(path)
    click.echo(json.dumps(asdict(found)) if as_json else "\n".join(lines_of(found)))
    if found.refused is not None:
        raise SystemExit(ModelRefusedError.exit_code)


def _say(verdict: Verdict) -> None:
    reason = f"  {verdict.reason}" if verdict.reason else ""
    click.echo(f"{verdict.model_type:<26}{verdict.outcome:<10}{reason}")


def _summary(report: TypesReport) -> str:
    counted = ", ".join(f"{number} {outcome}" for outcome, number in report.counts.items())
    return f"transformers {report.transformers}, torch {report.torch}: {counted}"
