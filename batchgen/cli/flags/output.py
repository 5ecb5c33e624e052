"""The flags of `run` that say what the output holds, and how answers are read."""

from __future__ import annotations

import click

from batchgen.cli.flags.flag import flag, flag_group
from batchgen.cli.flags.place import PLACE

__all__ = ["output_options"]


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


output_options = flag_group(
    "Output",
    flag(
        "--out", "-o", "--output-file", "out", required=True, core=True, type=PLACE, metavar="FILE",
        help="Parquet or .jsonl[.gz|.zst], or s3://, gs://, az://.",
    ),
    flag("--format", type=click.Choice(["parquet", "jsonl"]), help="Of the output.",
         show_default="by its ending, else parquet"),
    flag("--rows-per-file", type=click.IntRange(min=1), metavar="N",
         help="Make OUT a folder of Parquet files of N input rows each."),
    flag(
        "--keep-columns", default="all", metavar="all|none|a,b", core=True,
        help="Input columns to carry over (`a:int64`: typed; `new=a`: renamed).",
    ),
    flag("--save-prompt/--no-save-prompt", default=True, help="Keep prompts in the output."),
    flag("--save-token-ids", is_flag=True, help="Add the column token_ids."),
    flag("--reasoning-parser", default="auto", metavar="auto|none|NAME", callback=_parser_name,
         help="What tells thinking from answers; auto: the chat template."),
    flag("--tool-call-parser", default="auto", metavar="auto|none|NAME", callback=_parser_name,
         help="What finds calls of tools, in rows that have some; auto: as above."),
)  # fmt: skip
