"""From the type that a source's column has to the one of the output, where sources differ in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa

from batchgen.job.stored_types import stored_type

__all__ = ["UNFIT", "fitting", "is_text"]

UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError)
"""What Arrow raises for a value that a type cannot hold."""


def fitting(kind: pa.DataType, wanted: pa.DataType) -> Callable[[Any], Any] | None:
    """Makes of a stored value of `kind` a stored value of `wanted`, and raises one of `UNFIT` where
    that would lose something; None where values are the same."""
    if kind == wanted or (is_text(kind) and is_text(wanted)):
        return None
    return partial(_fit, kind, wanted)


def _fit(kind: pa.DataType, wanted: pa.DataType, value: Any) -> Any:
    stored = stored_type(wanted)
    try:
        pa.array([value], stored)
    except UNFIT:  # as of a date and time among those that count nanoseconds: Arrow knows both
        array = pa.array([value], stored_type(kind)).cast(kind).cast(wanted)
        return array.cast(stored)[0].as_py()
    return value


def is_text(kind: pa.DataType) -> bool:
    """Whether a column's values are texts, a dictionary's too."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
