"""The flags of `run` that say which rows there are, and what their fields are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from batchgen.cli.flags.flag import flag, flag_group
from batchgen.errors import RowError
from batchgen.job.spec import OVERLONG

__all__ = ["INPUT", "input_options"]

INPUT = "Input"
"""Their heading."""


def _template_kwargs(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> dict[str, Any]:
    """A JSON object, fit to be a row's chat_template_kwargs."""
    if not value:
        return {}
    from batchgen.job.fields.settings import read_template_kwargs

    try:
        given = json.loads(value)
        if not isinstance(given, dict):
            raise ValueError(f"it is {type(given).__name__}, no object")
        return read_template_kwargs({"chat_template_kwargs": given})
    except (ValueError, RecursionError) as error:
        text = f'write a JSON object, such as {{"enable_thinking": false}}: {error}'
        raise click.BadParameter(text, ctx, param) from None
    except RowError as error:
        raise click.BadParameter(error.message, ctx, param) from None


def _text_or_file(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """`@FILE` is the file's text, `@@...` a text that begins with @."""
    if not value or not value.startswith("@"):
        return value
    if value.startswith("@@"):
        return value[1:]
    try:
        return Path(value[1:]).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        text = f"{value[1:]} cannot be read: {error} (a text that begins with @ is written @@)"
        raise click.BadParameter(text, ctx, param) from None


input_options = flag_group(
    INPUT,
    flag(
        "--in", "-i", "--input-file", "inputs", multiple=True, required=True, core=True,
        metavar="PATH",
        help="JSONL or Parquet file, glob, folder or dataset id; repeats.",
    ),
    flag("--limit", type=click.IntRange(min=0), metavar="N", core=True, help="Only N rows."),
    flag("--prompt-column", default="prompt", metavar="NAME", help="Column of raw prompts."),
    flag("--messages-column", default="messages", metavar="NAME", help="Column of chat messages."),
    flag("--id-column", metavar="NAME", show_default="id, else custom_id",
         help="Column of row ids; `a,b`: of both together."),
    flag("--template", metavar="FILE.j2", core=True,
         help="Jinja template that makes each row's prompt of its columns."),
    flag("--as-chat", is_flag=True, core=True, help="Make each plain prompt a user message."),
    flag("--system", metavar="TEXT|@FILE", callback=_text_or_file, may_be_empty=True,
         help="System message put before chats that have none of their own."),
    flag("--chat-template-kwargs", metavar="JSON", callback=_template_kwargs, show_default="{}",
         help="What chat templates read besides messages; a row's own win."),
    flag("--overlong", type=click.Choice(OVERLONG), default="error",
         help="Prompts that do not fit: an error, cut at one end, or skipped."),
    flag(
        "--served-model-name", "served_model_names", multiple=True, metavar="NAME",
        help="Name that an OpenAI row's body.model may have; repeats.",
    ),
    flag("--ignore-model", is_flag=True, help="Accept any body.model in OpenAI rows."),
    flag("--adapter", "adapters", multiple=True, metavar="[NAME=]DIR", core=True,
         help="LoRA adapter (a folder of peft's, a hub id); of several each row names its own."),
    flag("--split", default="train", metavar="NAME", help="Split of a dataset source."),
)  # fmt: skip
