"""`batchgen validate`: every bad row of an input, without a model run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.flags.ahead import ahead_command, spec_ahead
from batchgen.cli.process.prepare_ahead import prepare_ahead
from batchgen.counts import counted
from batchgen.errors import InvalidDataError

if TYPE_CHECKING:
    from batchgen.job.ahead.validation import BadRow, Validation

__all__ = ["validate"]


@ahead_command()
def validate(ctx: click.Context, /, **flags: Any) -> None:
    """List every row that a run with the same flags would turn into an error row. No torch.

    Exit code 65 if there is one. Without --model (or --engine echo) only what no model would take
    is found: prompts are not tokenised.

    \b
    batchgen validate --in prompts.jsonl
    batchgen validate --in 'data/*.parquet' --model Qwen/Qwen3-0.6B --json
    """
    with _validation(flags, own_process=ctx.obj is True) as validation:
        as_json = flags["as_json"]
        for bad in validation:
            click.echo(json.dumps(asdict(bad)) if as_json else _line(bad))
        click.echo(json.dumps(_counts(validation)) if as_json else _summary(validation))
    ctx.exit(InvalidDataError.exit_code if validation.bad else 0)


@contextmanager
def _validation(flags: dict[str, Any], *, own_process: bool) -> Iterator[Validation]:
    """Everything opened; errors of the command line or the model are raised here."""
    from batchgen.job.ahead.opening import opened
    from batchgen.job.ahead.validation import Validation
    from batchgen.job.input.reader import Reader
    from batchgen.job.model.files import model_of

    spec = spec_ahead(flags)
    if spec.model is None and spec.engine != "echo":
        yield Validation(Reader.of_job(spec, None))
        return
    files = model_of(spec)
    prepare_ahead(files, own_process=own_process)
    with opened(spec, files) as job:
        yield Validation(job)


def _line(bad: BadRow) -> str:
    """`file:line: id: code: message`, on one line whatever the id holds."""
    return f"{bad.origin}: id {json.dumps(bad.id)}: {bad.error_code}: {bad.error_message}"


def _counts(validation: Validation) -> dict[str, Any]:
    return {
        "rows": validation.rows,
        "good": validation.rows - validation.bad - validation.skipped,
        "bad": validation.bad,
        "skipped": validation.skipped,
        "truncated": validation.truncated,
        "error_codes": dict(sorted(validation.codes.items())),
    }


def _summary(validation: Validation) -> str:
    codes = ", ".join(f"{code} {count:,}" for code, count in sorted(validation.codes.items()))
    good = validation.rows - validation.bad - validation.skipped
    skipped = f", {validation.skipped:,} skipped" if validation.skipped else ""
    cut = f", {validation.truncated:,} cut to fit" if validation.truncated else ""
    unread = "" if validation.tokenises else "; prompts were not tokenised: no --model was given"
    return f"{counted(validation.rows, 'row')}: {good:,} good, {validation.bad:,} bad" + (
        (f" ({codes})" if codes else "") + skipped + cut + unread
    )
