"""What a column's values are stored as: types that Python values fit into at any depth; and read
as, where Python has no value."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pyarrow as pa

__all__ = ["array_of", "plain_values", "sortable", "sortable_type", "stored_type"]

Read = Callable[[Any], Any]


def stored_type(kind: pa.DataType) -> pa.DataType:
    """`kind` with extension types as their storage, and moments of nanoseconds (which Python's have
    not) as integers, at every depth."""
    if isinstance(kind, pa.BaseExtensionType):
        return stored_type(kind.storage_type)
    if pa.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns":
        return pa.int64()
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")  # the moment; no zone is looked up
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(len(kind))]
        return pa.struct([field.with_type(stored_type(field.type)) for field in fields])
    if pa.types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(stored_type(kind.key_type)),
            kind.item_field.with_type(stored_type(kind.item_type)),
        )
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(_stored_items(kind))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_stored_items(kind))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_stored_items(kind), kind.list_size)
    return kind


def _stored_items(kind: pa.DataType) -> pa.Field:
    return kind.value_field.with_type(stored_type(kind.value_type))


def sortable_type(kind: pa.DataType) -> pa.DataType:
    """`kind`, but for views of strings and of bytes, whose rows Arrow cannot sort."""
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def sortable(table: pa.Table) -> pa.Table:
    """The table without columns of such views, which earlier versions kept as they were."""
    fields = [field.with_type(sortable_type(field.type)) for field in table.schema]
    schema = pa.schema(fields, table.schema.metadata)
    return table if schema == table.schema else table.cast(schema)


def array_of(values: list[object], kind: pa.DataType) -> pa.Array:
    """Stored values as an array of `kind`. Raises what Arrow raises for values that do not fit."""
    stored = stored_type(kind)
    array = pa.array(values, stored)
    return array if stored == kind else array.cast(kind)


def plain_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column's Python values. At every depth, times and spans in nanoseconds, which Python's have
    not, are text as Python would write them; moments of a zone that is not known here are UTC's."""
    read = _reads(column.type)
    if read is None:
        values: list[Any] = column.to_pylist()
        return values
    return [read(value) for value in column.cast(stored_type(column.type)).to_pylist()]


def _reads(kind: pa.DataType) -> Read | None:
    """What makes of a stored value the one to show; None where Arrow's own are right."""
    if pa.types.is_temporal(kind):
        if getattr(kind, "unit", "") == "ns":
            if pa.types.is_timestamp(kind):
                return partial(_moment, pa.timestamp("us", kind.tz if _is_known(kind) else "UTC"))
            return _span if pa.types.is_duration(kind) else _clock
        return None if _is_known(kind) else _same
    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: _reads(kind.field(i).type) for i in range(len(kind))}
        return partial(_fields, fields) if any(fields.values()) else None
    if isinstance(kind, pa.BaseExtensionType) or not hasattr(kind, "value_type"):
        return None
    inner = None if pa.types.is_dictionary(kind) else _reads(kind.value_type)
    return inner and partial(_items, inner)


def _is_known(kind: pa.DataType) -> bool:
    """Whether this machine has the zone of a timestamp."""
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        return True
    try:
        pa.scalar(0, pa.timestamp("us", kind.tz)).as_py()
    except (pa.ArrowException, ValueError, LookupError):
        return False
    return True


def _same(value: Any) -> Any:
    return value


def _moment(kind: pa.DataType, value: int | None) -> str | None:
    if value is None:
        return None
    whole = pa.scalar(value // 1000, kind).as_py()
    if value % 1000 == 0:
        return str(whole.isoformat())
    text = whole.isoformat(timespec="microseconds")
    return f"{text[:26]}{value % 1000:03d}{text[26:]}"


def _clock(value: int | None) -> str | None:
    text = None if value is None else _moment(pa.timestamp("us"), value)
    return text and text[11:]


def _span(value: int | None) -> str | None:
    if value is None:
        return None
    text = str(timedelta(microseconds=value // 1000))
    if value % 1000 == 0:
        return text
    return f"{text}{'' if '.' in text else '.000000'}{value % 1000:03d}"


def _fields(fields: dict[str, Read | None], value: dict[str, Any] | None) -> Any:
    if value is None:
        return None
    return {
        name: one if (read := fields[name]) is None else read(one) for name, one in value.items()
    }


def _items(read: Read, value: list[Any] | None) -> Any:
    return None if value is None else [read(one) for one in value]
