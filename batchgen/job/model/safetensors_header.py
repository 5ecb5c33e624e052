"""What a safetensors file holds, from its header alone: no weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from batchgen.errors import ModelRefusedError

__all__ = ["StoredTensor", "read_tensors"]

_MOST_BYTES = 100 << 20
"""That the format allows a header."""
_LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`dtype`: the format's name, such as BF16."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def count(self) -> int:
        """Numbers, as stored."""
        return prod(self.shape)


def read_tensors(path: Path) -> Iterator[StoredTensor]:
    """All of one file. Raises ModelRefusedError where it is none."""
    try:
        with path.open("rb") as file:
            begin = file.read(8)
            if begin == _LFS[:8]:
                raise ValueError("a pointer of Git LFS: run `git lfs pull` where it came from")
            length = int.from_bytes(begin, "little")
            if length > _MOST_BYTES:
                raise ValueError(f"a header of {length:,} bytes")
            header = json.loads(file.read(length))
            size = file.seek(0, 2) - 8 - length
        for name, one in header.items():
            if name != "__metadata__":
                first, end = one["data_offsets"]
                if end > size:
                    raise ValueError(f"it is cut off: {end - size:,} bytes or more are missing")
                yield StoredTensor(name, one["dtype"], tuple(one["shape"]), end - first)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{path}: no safetensors file that can be read: {error}"
        raise ModelRefusedError(text, "fetch it again, whole") from error
