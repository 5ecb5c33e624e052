"""Arrow's values as a row's: JSON text parsed, the nulls taken out that only pad a struct, ids as
text; and kept columns in the form that every type can be stored from.

Extension types and nanoseconds have no Python value that Arrow would take back at every depth, so
kept ones travel as what they are stored as (`stored_types`). `arrow.json`, which `datasets` writes
for a field whose type varies between rows, is what the JSON lines would have given: text. A type
that some reader of the output cannot load (`datasets`: uuid, bool8, maps, decimals of 32 bits;
Polars: list views, decimals of more than 38 digits; pyarrow before 26: lists of one length of which
one is missing), or whose rows Arrow cannot sort (views of strings and bytes), is kept as one that
all of them load.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pyarrow as pa

from batchgen.job.stored_types import sortable_type

__all__ = ["content_of", "id_of", "is_json", "is_list", "kept_type", "kept_value", "plain_of"]

Convert = Callable[[Any], Any]
_JSON = getattr(pa, "JsonType", None)
"""Not before pyarrow 19, which is where it first reads `arrow.json` as more than its text."""


def is_json(kind: pa.DataType) -> bool:
    """Whether it is `arrow.json`."""
    return _JSON is not None and isinstance(kind, _JSON)


def is_list(kind: pa.DataType) -> bool:
    """Whether it is a list of any kind."""
    tests = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def _holds_json(kind: pa.DataType) -> bool:
    """Whether it is `arrow.json`, or has it at any depth."""
    return is_json(kind) or any(map(_holds_json, _children(kind)))


def content_of(kind: pa.DataType, exact: bool = False) -> Convert | None:
    """For a column that is read, not kept: JSON parsed wherever it stands, every null dropped that
    a struct has for an absent field, and a decimal a number, as JSON has it, unless it is to stay
    `exact`. None where values are right as Python has them."""
    if is_json(kind):
        return _parsed
    if pa.types.is_decimal(kind):
        return None if exact else _number
    if pa.types.is_struct(kind):
        inside = [kind.field(i) for i in range(len(kind))]
        return partial(_without_padding, {f.name: content_of(f.type, exact) for f in inside})
    if pa.types.is_map(kind):
        return partial(_as_object, content_of(kind.item_type, exact))
    inner = content_of(kind.value_type, exact) if is_list(kind) else None
    return inner and partial(_each, inner)


def plain_of(kind: pa.DataType) -> Convert:
    """For a column that `--template` reads: as `content_of`, a UUID as its text, a decimal with the
    digits that it has."""
    return id_of(kind) or content_of(kind, exact=True) or _same


def kept_type(kind: pa.DataType) -> pa.DataType:
    """What a kept column of this type is in the output: its own, or where pandas, DuckDB, Polars or
    `datasets` cannot load that, one that holds the same values and that all of them load."""
    if is_json(kind) or isinstance(kind, pa.UuidType) or _is_too_precise(kind):
        return pa.string()
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.BaseExtensionType):
        return kept_type(kind.storage_type)
    if pa.types.is_decimal(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_struct(kind):
        return pa.struct([_kept_field(kind.field(i)) for i in range(len(kind))])
    if pa.types.is_map(kind):
        entry = [pa.field("key", kept_type(kind.key_type)), _kept_field(kind.item_field)]
        return pa.list_(pa.struct([entry[0], entry[1].with_name("value")]))
    if not is_list(kind):
        return sortable_type(kind)
    field = _kept_field(kind.value_field)
    large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    return pa.large_list(field) if large else pa.list_(field)


def kept_value(kind: pa.DataType) -> Convert | None:
    """Makes of a kept column's Python values (as the type is stored) those of `kept_type`; None
    where they are the same."""
    if is_json(kind):
        return _as_text
    if isinstance(kind, pa.UuidType):
        return _as_uuid
    if isinstance(kind, pa.Bool8Type):
        return lambda value: value if value is None else bool(value)
    if isinstance(kind, pa.BaseExtensionType):
        return kept_value(kind.storage_type)
    if _is_too_precise(kind):
        return lambda value: value if value is None else f"{value:f}"
    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: kept_value(kind.field(i).type) for i in range(len(kind))}
        return partial(_each_field, fields) if any(fields.values()) else None
    if pa.types.is_map(kind):
        return partial(_as_entries, kept_value(kind.key_type), kept_value(kind.item_type))
    inner = kept_value(kind.value_type) if is_list(kind) else None
    return inner and partial(_each, inner)


def id_of(kind: pa.DataType) -> Convert | None:
    """A UUID is its text; JSON is its value."""
    if isinstance(kind, pa.UuidType):
        return _as_uuid
    return _parsed if is_json(kind) else None


def _same(value: Any) -> Any:
    return value


def _is_too_precise(kind: pa.DataType) -> bool:
    """Polars refuses decimals of more than 38 digits, and DuckDB rounds them to a double."""
    return bool(pa.types.is_decimal(kind) and kind.precision > 38)


def _kept_field(field: pa.Field) -> pa.Field:
    return field.with_type(kept_type(field.type))


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_map(kind):
        return [kind.key_type, kind.item_type]
    if pa.types.is_struct(kind):
        return [kind.field(i).type for i in range(len(kind))]
    return [kind.value_type] if is_list(kind) else []


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text


def _number(value: Any) -> Any:
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def _as_uuid(value: Any) -> str | None:
    return None if value is None else str(UUID(bytes=value))


def _as_text(text: Any) -> Any:
    """JSON's own texts and nulls as such; the rest as it is spelt, since 1.10 written again is 1.1,
    and 1e400 no JSON."""
    value = _parsed(text)
    return value if value is None or isinstance(value, str) else text


def _each(convert: Convert, value: Any) -> Any:
    return value if value is None else [convert(one) for one in value]


def _each_field(fields: dict[str, Convert | None], value: Any) -> Any:
    if value is None:
        return None
    return {name: one(value[name]) if one else value[name] for name, one in fields.items()}


def _as_entries(key: Convert | None, item: Convert | None, value: Any) -> Any:
    if value is None:
        return None
    return [{"key": key(k) if key else k, "value": item(v) if item else v} for k, v in value]


def _without_padding(fields: dict[str, Convert | None], value: Any) -> Any:
    """A struct's fields that are set. JSON's own null is such a padding too."""
    if not isinstance(value, dict):
        return value
    read = {k: one(value[k]) if (one := fields.get(k)) else value[k] for k in value}
    return {k: v for k, v in read.items() if v is not None}


def _as_object(convert: Convert | None, value: Any) -> Any:
    if value is None:
        return None
    return {key: convert(one) if convert else one for key, one in value}
