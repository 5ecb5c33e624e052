"""One flag: its place in the help, its environment name, and what no flag takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

__all__ = ["Decorated", "Flag", "flag", "flag_group", "params_of"]

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
        self.envvar = self.envvar or _environment_name(self.opts)

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


def _environment_name(spellings: Iterable[str]) -> str:
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
