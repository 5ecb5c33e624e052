"""A row's id: of one column, the first that has a value, or of several columns together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown

__all__ = ["IdColumns"]

_BETWEEN = "-"


@dataclass(frozen=True, slots=True)
class IdColumns:
    """`joined`: all of the columns make the id, as `id,sample` of an output with several samples;
    else the first that has a value is it."""

    names: tuple[str, ...]
    joined: bool = False

    @classmethod
    def of(cls, given: str | None) -> IdColumns:
        """What `--id-column` says."""
        if given is None:
            return cls(("id", "custom_id"))
        names = tuple(name.strip() for name in given.split(","))
        return cls(names, len(names) > 1)

    def used(self, key: str) -> set[str]:
        """The columns that make the id of a row whose `key` is this."""
        return {*self.names} if self.joined else {key}

    def key(self, raw: Mapping[str, Any]) -> str:
        """The first column that has a value, else the first."""
        for name in self.names:
            if raw.get(name) not in (None, ""):
                return name
        return self.names[0]

    def read(self, raw: Mapping[str, Any]) -> str | None:
        """The id, None where there is none. RowError INVALID_ROW for one that is no text or number,
        and where one of several columns lacks a value."""
        if self.joined:
            parts = [_id_of(raw.get(name)) for name in self.names]
            if None in parts:
                text = f"{self.names[parts.index(None)]} has no value, and the id is made of it"
                raise RowError(ErrorCode.INVALID_ROW, text)
            return _BETWEEN.join(map(str, parts))
        return _id_of(raw.get(self.key(raw)))


def _id_of(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return str(int(value))
    text = f"an id is a string or an integer, not {shown(value)}"
    raise RowError(ErrorCode.INVALID_ROW, text)
