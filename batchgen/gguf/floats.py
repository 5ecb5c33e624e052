"""Small float32 tensors of a file, read with the standard library."""

from __future__ import annotations

import struct

from batchgen.gguf.reading import Reading, refused

__all__ = ["read_floats"]

_MOST_VALUES = 1 << 16


def read_floats(read: Reading, name: str) -> list[float]:
    """A one-dimensional float32 tensor. Raises ModelRefusedError where it is another."""
    shape = read.shape(name)
    if len(shape) != 1 or read.tensors[name].kind != 0 or shape[0] > _MOST_VALUES:
        raise refused(read.path, f"the tensor {name} is no row of float32 values")
    home, start = read.place_of(name)
    with home.open("rb") as file:
        file.seek(start)
        data = file.read(4 * shape[0])
    return list(struct.unpack(f"<{shape[0]}f", data))
