"""Parquet files of polars with integers of 128 bits, which pyarrow refuses whole: read as if those
columns were bytes, so that the others can be had.

To Parquet they are bytes; only the Arrow schema, which stands beside Parquet's own in the footer
under the key `ARROW:schema`, has a type that pyarrow does not know. Under another key it is passed
over.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["bytes_for_wide_integers", "wide_integers"]

_KEY = b"ARROW:schema"
_TAIL, _BYTES = 8, 16


def bytes_for_wide_integers(path: Path) -> Any:
    """What pyarrow reads such a file by: its pages, of which one byte is another. OSError where it
    cannot be opened, ValueError where it has no such key."""
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    length = int.from_bytes(pages[-_TAIL:-4], "little")
    at = pages.find(_KEY, max(0, len(pages) - _TAIL - length))
    if at < 0:
        raise ValueError(f"no {_KEY.decode()} in the footer")
    pages[at : at + 1] = b"-"
    return pa.BufferReader(pa.py_buffer(pages))


def wide_integers(source: Any) -> list[str]:
    """The columns of such a source that are, or hold, bytes of which Parquet says no more."""
    schema = pq.ParquetFile(source).schema
    found = (schema.column(number) for number in range(len(schema)))
    wide = [
        column.path.partition(".")[0]
        for column in found
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY"
        and column.length == _BYTES
        and column.logical_type.type == "NONE"
    ]
    return list(dict.fromkeys(wide))
