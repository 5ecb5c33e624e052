"""The flags of `run` that say what it tells, where and how."""

from __future__ import annotations

from pathlib import Path

import click

from batchgen.cli.flags.flag import flag, flag_group

__all__ = ["report_options"]

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
