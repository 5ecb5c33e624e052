"""A file's metadata as an architecture reads it: every key that is asked for is remembered."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError
from batchgen.gguf.parts import GgufFile
from batchgen.gguf_header import TensorInfo

__all__ = ["Reading", "refused"]


def refused(path: Path, what: str, hint: str | None = None) -> ModelRefusedError:
    """The error of a file that is not understood whole."""
    return ModelRefusedError(
        f"{path}: {what}",
        hint or "Name the model's transformers folder or hub id instead, or another .gguf file.",
    )


class Reading:
    """Keys are written without the architecture's name in front (`block_count`)."""

    def __init__(self, file: GgufFile) -> None:
        self.path = file.path
        self.architecture = str(file.metadata["general.architecture"])
        self.tensors: dict[str, TensorInfo] = file.tensors
        self.place_of = file.place_of
        self.metadata: dict[str, Any] = file.metadata
        self.used: set[str] = set()
        """Whole names of the keys that took effect."""

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `ARCHITECTURE.key`; a list over layers that says one thing is that."""
        name = f"{self.architecture}.{key}"
        self.used.add(name)
        value = self.metadata.get(name, default)
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            return value[0]
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """As `get`, a number. Raises ModelRefusedError where it is none, or absent."""
        value = self.get(key, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise self.refused(key, value)
        found: float = value
        return found

    def count(self, key: str, default: int | None = None) -> int:
        """As `get`, a whole number that is not negative."""
        value = self.number(key, default)
        if not isinstance(value, int) or value < 0:
            raise self.refused(key, value)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """As `get`, true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refused(key, value)
        return value

    def only(self, key: str, expected: Iterable[Any]) -> None:
        """Refuse values other than those that change nothing; an absent key is one of them."""
        value = self.get(key)
        if value is not None and value not in tuple(expected):
            raise self.refused(key, value)

    def refused(self, key: str, value: Any) -> ModelRefusedError:
        """The error for a value that cannot be applied."""
        name = f"{self.architecture}.{key}"
        if value is None:
            return refused(self.path, f"its metadata lack {name}")
        shown = f"a list of {len(value)} values" if isinstance(value, list) else repr(value)
        return refused(self.path, f"{name} is {shown}, which cannot be applied")

    def has(self, tensor: str) -> bool:
        """Whether the file holds a tensor of this name."""
        return tensor in self.tensors

    def shape(self, tensor: str) -> tuple[int, ...]:
        """A tensor's shape. Raises ModelRefusedError where it is missing."""
        if tensor not in self.tensors:
            raise refused(
                self.path, f"the tensor {tensor} is missing", "Fetch the file again, whole."
            )
        return self.tensors[tensor].shape
