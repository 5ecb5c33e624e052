"""One of several formats of answers, by its name, its alias, or the chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Protocol, TypeVar

from batchgen.errors import UsageError

__all__ = ["named_format"]


class _Format(Protocol):
    def is_of(self, template: str) -> bool: ...


Form = TypeVar("Form", bound=_Format)


def named_format(
    flag: str,
    name: str,
    template: str | None,
    formats: Iterable[Form],
    named: Mapping[str, Form],
    aliases: Mapping[str, str],
) -> Form | None:
    """The format that `flag` names; of `auto` the first that is the template's, of `none` none.
    `aliases`: other names of those `named`. UsageError for a name that is none."""
    if name == "auto":
        return next((f for f in formats if template and f.is_of(template)), None)
    plain = name.lower().replace("-", "_")
    if plain == "none":
        return None
    known = {**named, **{alias: named[form] for alias, form in aliases.items()}}
    if plain in known:
        return known[plain]
    near = get_close_matches(plain, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"{flag} {name}: there is no such parser",
        f"{hint}auto, none, {', '.join(sorted(known))}",
    )
