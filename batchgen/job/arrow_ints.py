"""Integer columns of Arrow as numpy's arrays and back. Arrow's own `to_numpy`, and `pa.array` of a
numpy array, import pandas where it is installed: a second of a merge, or of a run's end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["as_arrow", "integers"]


def integers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Its values, none of which is null. [num_rows]"""
    chunks = [_values(chunk) for chunk in column.chunks if len(chunk)]
    if not chunks:
        return np.empty(0, dtype=np.int64)
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def as_arrow(values: npt.NDArray[np.int64]) -> pa.Array:
    """The same memory as an Arrow array."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def _values(chunk: pa.Array) -> npt.NDArray[np.int64]:
    assert not chunk.null_count
    kind = np.dtype(str(chunk.type))
    data: npt.NDArray[np.int64] = np.frombuffer(
        chunk.buffers()[1], kind, count=len(chunk), offset=chunk.offset * kind.itemsize
    )
    return data
