"""The flags that say how answers are read, and what a run tells, where and how."""

from __future__ import annotations

from pathlib import Path

import click

from batchgen.cli.flags import flag, flag_group

__all__ = ["reasoning_parser", "report_options", "tool_call_parser"]


def _parser_name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value in ("auto", "none"):
        return value
    if param.name == "reasoning_parser":
        from batchgen.job.answers.thinking_formats import thinking_format

        thinking_format(value, None)
    else:
        from batchgen.job.answers.call_formats import call_format

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

_FILE = click.Path(dir_okay=False, path_type=Path)

report_options = flag_group(
    "Report",
    flag("--max-failures", default="0", metavar="N|P%", core=True,
         help="More failed rows than this: exit code 3."),
    flag("--row-timeout", type=click.FloatRange(min=0, min_open=True), metavar="S",
         help="Give a row up that is in the engine for longer."),
    flag("--summary", type=_FILE, metavar="FILE", core=True,
         help="Write the summary JSON here too."),
    flag("--metrics-file", type=_FILE, metavar="FILE",
         help="Progress for Prometheus, as node_exporter's textfile collector reads it."),
    flag("--log-format", type=click.Choice(["text", "json"]), default="text",
         help="Of what is said on stderr; json: an object a line, with time and level."),
    flag("--json", "as_json", is_flag=True, help="The summary as JSON on a terminal too."),
    flag("--progress", type=click.Choice(["auto", "bar", "lines", "none"]), default="auto",
         help="A bar on a terminal, else a line every 30 s."),
    flag("--quiet", "-q", is_flag=True, core=True, help="Say nothing on success."),
    flag("--verbose", "-v", is_flag=True, help="Say what was decided, and why."),
)  # fmt: skip
