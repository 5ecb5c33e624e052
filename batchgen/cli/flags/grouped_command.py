"""A command whose help has sections, core flags on one screen, and an answer for near misses."""

from __future__ import annotations

import os
from typing import Any

import click

from batchgen.cli.flags.flag import Flag
from batchgen.cli.flags.other_names import answer_for, tell_near_variables

__all__ = ["CONTEXT_SETTINGS", "GroupedCommand"]

CONTEXT_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "auto_envvar_prefix": "BATCHGEN",
    "max_content_width": 100,
}


class GroupedCommand(click.Command):
    """A command whose help lists flags by section; `--help` the core ones, `--help-all` all.

    A flag under another program's name is answered with ours, and a variable whose name is nearly
    a flag's is told.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_help_all_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with help for flags and variables that are nearly right."""
        tell_near_variables(self, os.environ)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            answer = answer_for(name)
            if answer is None:
                raise
            text = f"No such option {name!r}{answer}"
            raise click.NoSuchOption(name, text, ctx=ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one block a section."""
        show_all = bool(ctx.meta.get("batchgen.help_all"))
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if show_all or not isinstance(param, Flag) or param.core:
                record = param.get_help_record(ctx)
                if record is not None:
                    sections.setdefault(getattr(param, "section", "Help"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _help_all_option() -> click.Option:
    return click.Option(
        ["--help-all"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_help_all,
        help="Show every flag and exit.",
    )


def _show_help_all(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta["batchgen.help_all"] = True
        for param in ctx.command.params:
            if isinstance(param, Flag):
                param.show_envvar = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
