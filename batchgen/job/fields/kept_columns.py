"""Extra input columns on their way to the output: which, of what type, cast how.

Parquet and `datasets` columns keep their own type. JSONL extras are strings (other scalars as JSON
text) unless `--keep-columns a:int64` or a Parquet source declares a type. Under `all`, JSONL extras
that are scalars are kept as they come; the first rows settle most of them before the run starts,
later ones are late columns of the output, at most `MAX_LATE_COLUMNS` in all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchgen.errors import InvalidDataError, UsageError
from batchgen.job.fields.type_fitting import UNFIT, fitting
from batchgen.job.quoting import shown
from batchgen.job.schema import RESERVED_NAMES

__all__ = ["MAX_LATE_COLUMNS", "KeptColumns", "KeptItem", "TypedColumns"]

MAX_LATE_COLUMNS = 1000
TypedColumns = Mapping[str, Callable[[Any], Any] | None]
"""The kept columns of a typed source, and what makes a value fit into the output's, if needed."""
_log = logging.getLogger(__name__)
_encode = json.JSONEncoder(ensure_ascii=False).encode
_type_of: Callable[[str], pa.DataType] = pa.type_for_alias


@dataclass(frozen=True, slots=True)
class KeptItem:
    """One of `--keep-columns`: `name`, `name:type`, or `name=source` for another name."""

    name: str
    source: str
    type: str | None = None

    @classmethod
    def of(cls, item: str) -> KeptItem:
        """Read one."""
        column, _, kind = item.rpartition(":") if ":" in item else (item, "", None)
        name, equals, source = column.partition("=")
        return cls(name, source if equals else name, kind)


class KeptColumns:
    """The kept columns of one input, and the values that a row has in them.

    Sources' names come in; what a kept column is called in the output is `name_of` it.
    """

    def __init__(self, keep_columns: str) -> None:
        self.all = keep_columns == "all"
        self._types: dict[str, pa.DataType] = {}
        self._late: set[str] = set()
        self._left_out = False
        self._untyped: set[str] = set()
        self._fixed: set[str] = set()
        self._met: set[str] = set()
        self._told: set[str] = set()
        self._names: dict[str, str] = {}
        self._beside: Iterable[str] = ()
        if keep_columns not in ("all", "none"):
            for item in filter(None, map(str.strip, keep_columns.split(","))):
                self._declare_named(item)
        self.named = frozenset(self._names)
        self._casts: dict[str, Callable[[Any], Any]] = {n: _cast(t) for n, t in self._types.items()}

    @property
    def schema(self) -> list[tuple[str, pa.DataType]]:
        """Name and type of every column settled so far, in the output's order."""
        return list(self._types.items())

    @property
    def not_met(self) -> list[str]:
        """Columns asked for by name that no source was seen to have."""
        return [name for name in self._names if name not in self._met]

    def name_of(self, source: str) -> str:
        """What a source's column is called in the output."""
        return self._names.get(source, source)

    def wants(self, name: str) -> bool:
        """Whether an extra column of a typed source is to be read."""
        return self.all or name in self.named

    def declare(self, name: str, kind: pa.DataType, where: str) -> None:
        """Settle a column of a typed source (Parquet), widening its type where sources differ.

        UsageError for a name of the output or a contradicting type in --keep-columns;
        InvalidDataError where two sources have types that no type can hold.
        """
        self._met.add(name)
        name = self.name_of(name)
        self._refuse_reserved(name)
        known = self._types.get(name)
        if pa.types.is_null(kind):  # another source, if any, decides the type
            if known is not None:
                return
            self._untyped.add(name)
            kind = pa.string()
        else:
            if known is not None and name not in self._untyped:
                kind = self._unify(name, known, kind, where)
            self._untyped.discard(name)
        self._types[name] = kind
        self._casts[name] = _cast(kind)

    def stand_beside(self, names: Iterable[str]) -> None:
        """The extra columns of a source, among which those declared next stand."""
        self._beside = names

    def tell_changed(self, name: str, kind: pa.DataType, kept: pa.DataType) -> None:
        """Say once that a column of this type is kept as one that every reader loads."""
        if name not in self._told:
            self._told.add(name)
            text = "column %r is %s, which not every reader of Parquet loads: it is kept as %s"
            _log.warning(text, name, kind, kept)

    def settle(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Settle the columns of JSONL sample rows. UsageError for a name of the output."""
        for extras in rows:
            self._met.update(extras)
            self.stand_beside(extras)
            for name, value in extras.items():
                out = self.name_of(name)
                if self._keeps(name, value) and out not in self._types:
                    self._refuse_reserved(out)
                    self._types[out] = pa.string()
                    self._casts[out] = _text

    def read(self, extras: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """The kept values of a JSONL row, cast, and what is wrong with one of them or None."""
        kept: dict[str, Any] = {}
        problem = None
        for name, value in extras.items():
            if not self._keeps(name, value):
                self._tell_left_out(name)
                continue
            name = self.name_of(name)
            if name in RESERVED_NAMES:
                problem = f"extra column {name!r} has the name of an output column"
            elif self._admit(name):
                cast: Callable[[Any], Any] = self._casts.get(name, _text)
                try:
                    kept[name] = None if value is None else cast(value)
                except (ValueError, pa.ArrowException, OverflowError, RecursionError):
                    kept[name] = None
                    problem = f"column {name!r} takes {self._types[name]}, not {shown(value)}"
        return kept, problem

    def is_settled(self, names: Iterable[str]) -> bool:
        """Whether it is known of all these extras, whatever their values, if they are kept."""
        known = self._types.keys() | self._late | RESERVED_NAMES
        return all(self.name_of(name) in known or not (self.all or name == "url") for name in names)

    def fitted(self, kinds: Mapping[str, pa.DataType]) -> TypedColumns:
        """A typed source's kept columns for `read_typed`. After every source was declared: only
        then are the output's types known."""
        return {
            name: fitting(kind, self._types[self.name_of(name)]) for name, kind in kinds.items()
        }

    def read_typed(
        self, row: Mapping[str, Any], columns: TypedColumns
    ) -> tuple[dict[str, Any], str | None]:
        """The kept values of a row of a typed source, and what is wrong with one of them or None.
        Where sources differ in a column's type each value is made one of the type of both."""
        kept: dict[str, Any] = {}
        problem = None
        for source, fit in columns.items():
            name = self.name_of(source)
            kept[name] = value = row.get(source)
            if fit is not None and value is not None:
                try:
                    kept[name] = fit(value)
                except (*UNFIT, pa.ArrowNotImplementedError):
                    kept[name] = None
                    problem = f"column {name!r} is {self._types[name]}, as other inputs have it, "
                    problem += f"and cannot hold {shown(value)}; --keep-columns can leave it out"
        return kept, problem

    def _keeps(self, name: str, value: Any) -> bool:
        if name in self._names:
            return True
        if name in self._types and name not in self._names.values():
            return True
        return (self.all or name == "url") and not isinstance(value, list | dict)

    def _tell_left_out(self, name: str) -> None:
        if self.all and name not in self._told and len(self._told) < MAX_LATE_COLUMNS:
            self._told.add(name)
            text = (
                "column %r holds lists or objects and is left out; --keep-columns takes it by name"
            )
            _log.warning(text + ", as JSON text", name)

    def _admit(self, name: str) -> bool:
        """Whether a late column may still be added; the row's number of columns is not ours."""
        if name in self._types or name in self._late:
            return True
        if len(self._late) >= MAX_LATE_COLUMNS:
            if not self._left_out:
                text = "more than %d columns that the first rows lack: %r, and others that come, "
                text += "are left out (said once); --keep-columns a,b names what to keep"
                _log.warning(text, MAX_LATE_COLUMNS, name)
            self._left_out = True
            return False
        self._late.add(name)
        return True

    def _declare_named(self, item: str) -> None:
        given = KeptItem.of(item)
        name, source, alias = given.name, given.source, given.type
        others = {kept for one, kept in self._names.items() if one != source}
        if name in others or self._names.get(source, name) != name:
            text = f"--keep-columns {item}: {name!r} or {source!r} is named before"
            raise UsageError(text, "each column is kept once, under one name")
        self._names[source] = name
        (self._untyped if alias is None else self._fixed).add(name)
        self._refuse_reserved(name)
        try:
            self._types[name] = pa.string() if alias is None else _type_of(alias)
        except ValueError:
            hint = "types are Arrow's: string, int64, float64, bool, date32, timestamp[us], ..."
            raise UsageError(f"--keep-columns {item}: {alias!r} is no type", hint) from None

    def _unify(self, name: str, known: pa.DataType, kind: pa.DataType, where: str) -> pa.DataType:
        """The type that holds both."""
        if name in self._fixed and known != kind:
            text = f"--keep-columns {name}:{known}, but {where} has {kind}"
            raise UsageError(text, "leave the type out: Parquet columns keep their own")
        found = _type_of_both(known, kind) or _type_of_both(_values_type(known), _values_type(kind))
        if found is None:
            text = f"column {name!r} is {kind} in {where} and {known} in an earlier input"
            hint = "make the types equal, or leave it out of --keep-columns"
            raise InvalidDataError(text, hint)
        return found

    def _refuse_reserved(self, name: str) -> None:
        if name in RESERVED_NAMES:
            text = f"input column {name!r} has the name of an output column"
            hint = f"name the columns to keep, this one anew: --keep-columns a,b,old_{name}={name}"
            if {"attempt", "run_id"}.issubset(self._beside):
                kept = [one for one in self._beside if one not in RESERVED_NAMES]
                kept += ["answer=completion"] if "completion" in self._beside else []
                also = "; none keeps no column" if kept else ""
                hint = (
                    f"it is an output of batchgen: --keep-columns {','.join(kept) or 'none'}{also}"
                )
            raise UsageError(text, hint)


def _type_of_both(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds every value of two; None where there is none."""
    schemas = [pa.schema([("x", one)]), pa.schema([("x", other)])]
    try:
        found = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    # Of unsigned and signed 64 bits Arrow makes int64, which lacks the upper half.
    lossy = pa.types.is_int64(found) and pa.uint64() in (one, other)
    return None if lossy else found


def _values_type(kind: pa.DataType) -> pa.DataType:
    """What a dictionary column's values are; any other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _cast(kind: pa.DataType) -> Callable[[Any], Any]:
    """A function from a JSON value to a value of `kind`; it raises ValueError or ArrowException."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text
    return lambda value: _as_type(value, kind)


def _text(value: Any) -> str:
    return value if type(value) is str else _encode(value)


def _as_type(value: Any, kind: pa.DataType) -> Any:
    """Strings are parsed, numbers converted where nothing is lost, booleans are not numbers."""
    if isinstance(value, bool) != pa.types.is_boolean(kind) and not isinstance(value, str):
        raise ValueError("a boolean is no number")
    return pa.scalar(value).cast(kind).as_py()
