"""`batchgen validate`: every bad row of an input, without a model run."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli import options
from batchgen.cli.flags import CONTEXT_SETTINGS, flag
from batchgen.cli.parser_options import reasoning_parser
from batchgen.counts import counted
from batchgen.errors import InvalidDataError
from batchgen.job.spec import InputSpec

if TYPE_CHECKING:
    from batchgen.job.verbs.validation import BadRow, Validation

__all__ = ["validate"]


@click.command(context_settings=CONTEXT_SETTINGS)
@options.input_options
@flag("--keep-columns", default="all", metavar="all|none|a,b", help="As for run.")
@flag("--model", "-m", metavar="MODEL", help="Also check lengths and templates with this model.")
@flag("--revision", metavar="REV", help="Branch, tag or commit of a hub model.")
@flag("--chat-template", metavar="FILE|NAME", help="As for run.")
@reasoning_parser
@flag(
    "--max-model-len",
    type=click.IntRange(min=2),
    metavar="N",
    show_default="the model's",
    help="Most tokens of prompt and output together.",
)
@flag("--json", "as_json", is_flag=True, help="One JSON object a bad row, then one of counts.")
@click.pass_context
def validate(ctx: click.Context, /, **flags: Any) -> None:
    """List every row that a run would turn into an error row; exit code 65 if there is one.

    \b
    batchgen validate --in prompts.jsonl
    batchgen validate --in 'data/*.parquet' --model Qwen/Qwen3-0.6B --json
    """
    validation = _validation(flags, own_process=ctx.obj is True)
    as_json = flags["as_json"]
    for bad in validation:
        click.echo(json.dumps(asdict(bad)) if as_json else _line(bad))
    click.echo(json.dumps(_counts(validation)) if as_json else _summary(validation))
    ctx.exit(InvalidDataError.exit_code if validation.bad else 0)


def _validation(flags: dict[str, Any], *, own_process: bool) -> Validation:
    """Everything opened; errors of the command line or the model are raised here."""
    from batchgen.job.input.reader import Reader
    from batchgen.job.verbs.validation import Validation

    names = {field.name for field in fields(InputSpec)}
    spec = InputSpec(**{name: value for name, value in flags.items() if name in names})
    if flags["model"] is None:
        return Validation(Reader(spec))
    from batchgen.job.model.files import resolve_model
    from batchgen.job.text.tokenizer import load_codec

    files = resolve_model(flags["model"], flags["revision"], adapters=spec.adapters)
    files.check_supported()
    if own_process:
        from batchgen.cli.prepare import prepare_tokenizer

        prepare_tokenizer(files)
    served = (*spec.served_model_names, *files.served_names)
    reader = Reader(
        replace(spec, served_model_names=served), generation_defaults=files.generation_defaults
    )
    codec = load_codec(files, flags["chat_template"], hide_torch=True)
    longest = flags["max_model_len"] or files.max_position
    parser = flags["reasoning_parser"]
    return Validation(reader, codec, longest, files.eos_token_ids, spec.overlong, parser)


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
    return f"{counted(validation.rows, 'row')}: {good:,} good, {validation.bad:,} bad" + (
        (f" ({codes})" if codes else "") + skipped + cut
    )
