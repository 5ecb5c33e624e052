"""Columns that flags name, and no row has: a mistake to tell before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from batchgen.errors import InvalidDataError
from batchgen.job.fields.kept_columns import KeptItem
from batchgen.job.fields.row_ids import IdColumns
from batchgen.job.spec import InputSpec

__all__ = ["check_names", "few"]

_MOST_NAMED = 12


def check_names(spec: InputSpec, met: Iterable[str], *, every_row: bool) -> None:
    """`met`: the columns of the first rows of lines of JSON; `every_row`: there are no others.

    Raises InvalidDataError for a column that --prompt-column, --messages-column or --id-column
    names and none of these rows has; of --keep-columns only where they are all rows.
    """
    names = list(met)
    if not names:
        return
    defaults = InputSpec(())
    for flag in ("prompt_column", "messages_column", "id_column"):
        given = getattr(spec, flag)
        if given is None or given == getattr(defaults, flag):
            continue
        for name in IdColumns.of(given).names if flag == "id_column" else (given,):
            if name not in names:
                raise _absent("--" + flag.replace("_", "-"), name, names)
    if every_row and spec.keep_columns not in ("all", "none"):
        for item in filter(None, map(str.strip, spec.keep_columns.split(","))):
            source = KeptItem.of(item).source
            if source not in names:
                raise _absent("--keep-columns", source, names)


def few(names: Iterable[str]) -> str:
    """Some of the columns that there are."""
    shown = list(names)
    more = ", ..." if len(shown) > _MOST_NAMED else ""
    return ", ".join(shown[:_MOST_NAMED]) + more if shown else "no column"


def _absent(flag: str, given: str, names: list[str]) -> InvalidDataError:
    near = get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "name one of these columns"
    return InvalidDataError(f"{flag} {given}: no row has it; the rows have {few(names)}", hint)
