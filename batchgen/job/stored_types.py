"""What a column's values are stored as: types that Python values fit into at any depth."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["array_of", "stored_type"]


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


def array_of(values: list[object], kind: pa.DataType) -> pa.Array:
    """Stored values as an array of `kind`. Raises what Arrow raises for values that do not fit."""
    stored = stored_type(kind)
    array = pa.array(values, stored)
    return array if stored == kind else array.cast(kind)
