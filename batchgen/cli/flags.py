"""How flags look: grouped in the help, core ones on one screen, each with an environment name; and
what they take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchgen.cli.screen.other_names import answer_for, tell_near_variables

if TYPE_CHECKING:
    from batchgen.job.stores.places import Place

__all__ = [
    "CONTEXT_SETTINGS",
    "PLACE",
    "Decorated",
    "Flag",
    "GroupedCommand",
    "flag",
    "flag_group",
    "params_of",
]

CONTEXT_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "auto_envvar_prefix": "BATCHGEN",
    "max_content_width": 100,
}

_MOST_BITS = 63
_BOUNDS = r"(?:-?[\d.]+<=?)?x(?:[<>]=?-?[\d.]+)?"
_RANGE = re.compile(rf"; {_BOUNDS}(?=[];])|  \[{_BOUNDS}\]|(?<=\[){_BOUNDS}; ")
"""How click writes a range, alone in the brackets or beside a default."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Flag(click.Option):
    """An option that knows its help section, whether the short help shows it, and whether an empty
    text says something."""

    def __init__(
        self,
        *args: Any,
        section: str = "",
        core: bool = False,
        may_be_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.section = section
        self.core = core
        self.may_be_empty = may_be_empty
        self.envvar = self.envvar or environment_name(self.opts)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Of a flag that repeats a variable holds one value a line: click would cut at each space,
        and make two stop texts of one."""
        if not self.multiple:
            return super().value_from_envvar(ctx)
        text = self.resolve_envvar_value(ctx)
        return None if text is None else [line for line in text.splitlines() if line] or [text]

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Refuse an empty text, of which a path would make this folder; NaN, which is in every
        range of click's, being neither below nor above a bound; and an integer that nothing counts
        up to, which Arrow and NumPy cannot hold."""
        if not self.may_be_empty and "" in (value if isinstance(value, tuple | list) else (value,)):
            text = "it is empty (a variable that the shell does not know?)."
            raise click.BadParameter(text, ctx=ctx, param=self)
        found = super().type_cast_value(ctx, value)
        if found != found:
            raise click.BadParameter("nan is no number.", ctx=ctx, param=self)
        if isinstance(found, int) and found.bit_length() > _MOST_BITS:
            text = f"{found} is no integer of {_MOST_BITS + 1} bits."
            raise click.BadParameter(text, ctx=ctx, param=self)
        return found

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Leave ranges out: the error for a wrong number names them."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The same for click before 8.2, which has no `get_help_extra`."""
        record = super().get_help_record(ctx)
        return record and (record[0], _RANGE.sub("", record[1]))


def environment_name(spellings: Iterable[str]) -> str:
    """`--max-tokens` -> `BATCHGEN_MAX_TOKENS`; the first long spelling names it."""
    long = next(s for s in spellings if s.startswith("--"))
    return "BATCHGEN_" + long.removeprefix("--").replace("-", "_").upper()


def flag(*names: str, **kwargs: Any) -> Callable[[Decorated], Decorated]:
    """`click.option` with this project's habits: the default is shown."""
    kwargs.setdefault("show_default", True)
    return click.option(*names, cls=Flag, **kwargs)


def params_of(command: Callable[..., Any]) -> list[Any]:
    """The flags that a function's decorators gave it so far, the last one of its help first."""
    params: list[Any] = command.__click_params__  # type: ignore[attr-defined]
    return params


def flag_group(
    section: str, *flags: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[[Decorated], Decorated]:
    """One decorator for several flags, in the order given, under one heading."""

    def decorate(command: Decorated) -> Decorated:
        for add in reversed(flags):
            add(command)
            params_of(command)[-1].section = section
        return command

    return decorate


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


class _PlaceType(click.ParamType):  # type: ignore[type-arg]  # of later releases of click
    """A local path, or an object in a store. Whether it was written as a folder is kept in the
    context's `meta`: a Path forgets its last slash."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Place:
        """`s3://bucket/name`, `gs://`, `az://`; all else is a local path. Raises UsageError."""
        from batchgen.job.stores.places import place_of
        from batchgen.job.stores.remote_path import RemotePath

        if ctx is not None and param is not None and isinstance(value, str):
            ctx.meta[f"batchgen.folder.{param.name}"] = value.endswith("/")
        return value if isinstance(value, Path | RemotePath) else place_of(value)


PLACE = _PlaceType()
