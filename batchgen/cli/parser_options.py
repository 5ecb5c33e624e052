"""The flags that name parsers of answers; an unknown name is refused before anything is loaded."""

from __future__ import annotations

import click

from batchgen.cli.flags import flag

__all__ = ["reasoning_parser", "tool_call_parser"]


def _parser_name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value in ("auto", "none"):
        return value
    if param.name == "reasoning_parser":
        from batchgen.job.parsing.thinking_formats import thinking_format

        thinking_format(value, None)
    else:
        from batchgen.job.parsing.call_formats import call_format

        call_format(value, None)
    return value


reasoning_parser = flag(
    "--reasoning-parser", default="auto", metavar="auto|none|NAME", callback=_parser_name,
    help="What tells thinking from answers; auto: the chat template.",
)  # fmt: skip
tool_call_parser = flag(
    "--tool-call-parser", default="auto", metavar="auto|none|NAME", callback=_parser_name,
    help="What finds calls of tools, in rows that have some; auto: as above.",
)  # fmt: skip
