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
            length = int.from_bytes(file.read(8), "little")
            if length > _MOST_BYTES:
                raise ValueError(f"a header of {length:,} bytes")
            header = json.loads(file.read(length))
        for name, one in header.items():
            if name != "__metadata__":
                begin, end = one["data_offsets"]
                yield StoredTensor(name, one["dtype"], tuple(one["shape"]), end - begin)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{path}: no safetensors file that can be read: {error}"
        raise ModelRefusedError(text, "fetch it again, whole") from error
