"""Rows of an output by id, by index or by what their columns hold; beside those of another one."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from batchgen.errors import UsageError
from batchgen.job.stores.places import Place
from batchgen.job.verbs.row_files import RowFile, no_output, open_rows

__all__ = ["Condition", "Wanted", "beside", "find_rows"]

_BATCH_ROWS = 4096
_CONDITION = re.compile(r"(?P<column>\w+)\s*(?P<sign>!=|<=|>=|=|<|>|~)\s*(?P<value>.*)", re.DOTALL)
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """`column sign value`; `~` finds a regular expression. Null meets none but `=` nothing."""

    column: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """`finish_reason=length`, `prompt_tokens>100`, `completion~sorry`. Raises UsageError."""
        found = _CONDITION.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"--where {text!r} is no condition",
                "write COLUMN=VALUE, or !=, <, >, <=, >=, or ~ for a regular expression",
            )
        one = cls(found["column"], found["sign"], found["value"].strip("'\""))
        if one.sign == "~":
            try:
                re.compile(one.value)
            except re.error as error:
                raise UsageError(
                    f"--where {text!r}: {error}", "write a regular expression"
                ) from None
        return one

    def holds(self, value: Any) -> bool:
        """Of a row's value in the column: numbers are compared as numbers."""
        if value is None:
            return (self.sign == "=") == (self.value == "") and self.sign in ("=", "!=")
        if self.sign == "~":
            return re.search(self.value, str(value)) is not None
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return _SIGNS[self.sign](value, float(self.value))
            except ValueError:
                return self.sign == "!="
        return _SIGNS[self.sign](str(value), self.value)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows with one of these ids or indices, if any are named, that meet every condition."""

    ids: frozenset[str] = frozenset()
    indices: frozenset[int] = frozenset()
    conditions: tuple[Condition, ...] = ()

    def takes(self, row: Row) -> bool:
        """Whether a row is one of them."""
        named = self.ids or self.indices
        if named and row["id"] not in self.ids and row["index"] not in self.indices:
            return False
        return all(one.holds(row[one.column]) for one in self.conditions)


def find_rows(
    path: Place, wanted: Wanted, columns: Sequence[str] | None, most: int
) -> Iterator[Row]:
    """The first so many rows, with these columns (None: all). Raises UsageError for a column that
    is not there, InputUnreadableError."""
    file = open_rows(path)
    shown = list(file.names) if columns is None else list(columns)
    read = dict.fromkeys(["id", "index", "sample", *shown])
    read |= dict.fromkeys(one.column for one in wanted.conditions)
    _check(file, path, read)
    left = most
    for values in file.batches(list(read), _BATCH_ROWS):
        for row in zip(*values, strict=True):
            found = dict(zip(read, row, strict=True))
            if left > 0 and wanted.takes(found):
                left -= 1
                yield {name: found[name] for name in ("id", "index", "sample", *shown)}
        if left <= 0:
            return


def beside(rows: Sequence[Row], other: Place, columns: Sequence[str]) -> list[Row | None]:
    """The rows of another output with the same id and sample, in this order; None: it has none."""
    ids = frozenset(str(row["id"]) for row in rows)
    there = find_rows(other, Wanted(ids=ids), columns, 1 << 62)
    by_key = {(row["id"], row["sample"]): row for row in there}
    return [by_key.get((row["id"], row["sample"])) for row in rows]


def _check(file: RowFile, path: Place, names: Sequence[str] | dict[str, None]) -> None:
    missing = [name for name in names if name not in file.names]
    if missing and file.num_rows:
        if not {"index", "sample"} <= set(file.names):
            raise no_output(path, file.names)
        raise UsageError(
            f"{path} has no column {missing[0]!r}; it has {', '.join(file.names)}",
            "name one of these",
        )
