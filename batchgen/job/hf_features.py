"""The `huggingface` footer entry: the schema in the words of the `datasets` library."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

__all__ = ["huggingface_metadata"]

_SCALARS = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
    pa.types.is_large_binary,
    pa.types.is_timestamp,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_duration,
    pa.types.is_decimal128,
    pa.types.is_decimal256,
)
_RENAMED = {
    "float": "float32",
    "double": "float64",
    "halffloat": "float16",
    "date32[day]": "date32",
    "date64[ms]": "date64",
}


def huggingface_metadata(schema: pa.Schema) -> str | None:
    """JSON for the footer key `huggingface`; None where a kept column has a type that `datasets`
    cannot name (it then infers the features from the file)."""
    features = {field.name: _feature(field.type) for field in schema}
    if any(feature is None for feature in features.values()):
        return None
    return json.dumps({"info": {"features": features}})


def _feature(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _feature(kind.value_type)
        name = "LargeList" if pa.types.is_large_list(kind) else "Sequence"
        return inner and {"feature": inner, "_type": name}
    if pa.types.is_struct(kind):
        members = {kind.field(i).name: _feature(kind.field(i).type) for i in range(len(kind))}
        return None if None in members.values() else members
    if any(test(kind) for test in _SCALARS):
        return {"dtype": _RENAMED.get(str(kind), str(kind)), "_type": "Value"}
    return None
