"""Rows and errors of a part, from its footer, without pyarrow: `status` is done before it is there.

A part on this machine is read by its last bytes: Parquet's footer holds what the part says of
itself as a pair of strings in Thrift's compact form. One in a store goes through pyarrow.
"""

from __future__ import annotations

import json
from pathlib import Path

from batchgen.job.stores.places import Place, arrow_source
from batchgen.job.varints import read_varint

__all__ = ["DistinctRows", "facts_of_part"]

_TAIL = 1 << 16
_PAIR = b"\x18\x0dbatchgen.part\x18"
"""A string of 13 bytes as the first field; the value, the second, begins with its length."""


def facts_of_part(path: Place) -> tuple[int, dict[str, int]]:
    """(rows, errors by code). Raises OSError, LookupError, ValueError where the part is damaged."""
    if not isinstance(path, Path):
        from batchgen.job.storage.parts import part_summary

        summary = part_summary(path)
        return summary.rows, summary.errors
    facts = json.loads(_value(_footer(path)))
    return facts["rows"], facts["errors"]


def _footer(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        length = int.from_bytes(tail[-8:-4], "little")
        if tail[-4:] != b"PAR1" or length + 12 > size:
            raise ValueError(f"{path} is no whole Parquet file")
        if length + 8 > len(tail):
            file.seek(size - length - 8)
            tail = file.read()
    return tail[-length - 8 : -8]


def _value(footer: bytes) -> bytes:
    """The text behind the last such pair: statistics, which hold users' text, lie before."""
    at = footer.rindex(_PAIR) + len(_PAIR)
    length, at = read_varint(footer, at)
    return footer[at : at + length]


class DistinctRows:
    """Rows that parts of several splits have, each once."""

    def __init__(self) -> None:
        from batchgen.job.storage.bitmap import Bitmap

        self._seen = Bitmap()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, path: Place) -> None:
        """Those of a part. Raises OSError, ValueError where it is damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from batchgen.job.arrow_ints import integers

        try:
            table = pq.read_table(arrow_source(path), columns=["index"], use_threads=False)
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error
        self._seen.add_array(integers(table["index"]))
