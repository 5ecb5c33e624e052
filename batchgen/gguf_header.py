"""A GGUF file's metadata and table of tensors, by the standard library: no weights, no torch.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from batchgen.counts import counted
from batchgen.errors import ModelRefusedError

__all__ = ["GgufHeader", "TensorInfo", "forget_gguf_headers", "read_gguf_header"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_UNREADABLE = (EOFError, KeyError, struct.error, MemoryError, OverflowError, RecursionError)
_CHUNK_BYTES = 1 << 20
_MOST_NAME = (1 << 16) - 1
_MOST_TEXT = 1 << 26
_MOST_VALUES = 1 << 22
_MOST_SIZES = 4
"""Bytes of a name and of a text, values in all lists together, dimensions of a tensor: what says
that it has more is no model's, and would be read for minutes."""
_ALIGNMENT = 32
"""Of tensors, where the file names none."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """`shape`: outermost dimension first, as numpy has it (the file lists the innermost first).

    `kind`: ggml's number of the type. `offset`: bytes after the table's end, once that is aligned.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Key-value metadata, the SHA-256 of the bytes that hold it, and the table of tensors.

    `data_start`: the byte at which the tensors' data begin. `alignment`: of each one's first byte.
    """

    metadata: dict[str, Any]
    digest: str
    tensors: dict[str, TensorInfo]
    data_start: int
    alignment: int


class _Reader:
    """Reads values off a file that is fetched in chunks, so that weights are never touched."""

    def __init__(self, path: Path, size: int) -> None:
        self.where = "its head"
        """What is being read, for people."""
        self._values = 0
        self._file = path.open("rb")
        self._size = size
        self._buffer = bytearray()
        self._at = 0

    def take(self, size: int) -> memoryview:
        """The next `size` bytes; EOFError where the file ends before."""
        if size > self._size:
            raise EOFError
        while len(self._buffer) - self._at < size:
            chunk = self._file.read(max(_CHUNK_BYTES, size))
            if not chunk:
                raise EOFError
            self._buffer += chunk
        start, self._at = self._at, self._at + size
        return memoryview(bytes(self._buffer[start : self._at]))

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self, most: int = _MOST_TEXT) -> str:
        length = self.scalar("Q")
        if length > most:
            raise EOFError
        return str(self.take(length), "utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(self.scalar("I"), self.scalar("Q"))
        return self.scalar(_SCALARS[kind])

    def array(self, kind: int, length: int) -> list[Any]:
        self._values += length
        if self._values > _MOST_VALUES:
            raise EOFError
        if kind not in _SCALARS:
            return [self.value(kind) for _ in range(length)]
        layout = f"<{length}{_SCALARS[kind]}"
        return list(struct.unpack(layout, self.take(struct.calcsize(layout))))

    @property
    def place(self) -> int:
        """Bytes taken so far."""
        return self._at

    def digest(self) -> str:
        return hashlib.sha256(self._buffer[: self._at]).hexdigest()

    def close(self) -> None:
        self._file.close()


def read_gguf_header(path: Path) -> GgufHeader:
    """The metadata of `path`. Raises ModelRefusedError where it is no readable GGUF file."""
    stat = path.stat()
    return _read_cached(path, stat.st_size, stat.st_mtime_ns)


def forget_gguf_headers() -> None:
    """Once a model is loaded: its vocabulary and merges are 100,000 strings and more. Who asks
    again has the file read again."""
    _read_cached.cache_clear()


@lru_cache(maxsize=4)
def _read_cached(path: Path, size: int, mtime_ns: int) -> GgufHeader:
    """Cached by what tells one version of the file from the next."""
    reader = _Reader(path, size)
    try:
        _check_version(reader, path)
        return _read(reader, path)
    except _UNREADABLE as error:
        found = counted(size, "byte")
        raise ModelRefusedError(
            f"{path}: not a whole GGUF file ({found}): its metadata cannot be read, at byte "
            f"{reader.place:,}: {reader.where}.",
            "Fetch the file again, or name the model's transformers folder.",
        ) from error
    finally:
        reader.close()


def _check_version(reader: _Reader, path: Path) -> None:
    """Raises EOFError for what is no GGUF file, ModelRefusedError for one of another version."""
    if bytes(reader.take(4)) != _MAGIC:
        raise EOFError
    version = reader.scalar("I")
    if version in _VERSIONS:
        return
    swapped = int.from_bytes(version.to_bytes(4, "big"), "little")
    kind = f"version {version}" if swapped not in _VERSIONS else "big-endian"
    raise ModelRefusedError(
        f"{path}: a GGUF file of another kind ({kind}); served are little-endian ones of version "
        "2 and 3.",
        "Convert the file again (llama.cpp's gguf-py turns big-endian files round).",
    )


def _read(reader: _Reader, path: Path) -> GgufHeader:
    num_tensors, count = reader.scalar("Q"), reader.scalar("Q")
    metadata: dict[str, Any] = {}
    for number in range(count):
        reader.where = f"the name of key {number + 1} of {count}"
        key = reader.string(_MOST_NAME)
        if key in metadata:
            raise _odd(path, f"its metadata hold {_shown(key)} twice")
        if not key.isprintable():
            raise _odd(path, f"its metadata hold {_shown(key)}, which is no key")
        reader.where = f"the value of {_shown(key)}"
        metadata[key] = reader.value(reader.scalar("I"))
    digest = reader.digest()
    tensors: dict[str, TensorInfo] = {}
    for number in range(num_tensors):
        reader.where = f"the name of tensor {number + 1} of {num_tensors}"
        name = reader.string(_MOST_NAME)
        if name in tensors:
            raise _odd(path, f"it holds the tensor {_shown(name)} twice")
        if not name.isprintable():
            raise _odd(path, f"it holds a tensor {_shown(name)}, which is no name of one")
        reader.where = f"the tensor {_shown(name)}"
        tensors[name] = _tensor(reader)
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    whole = isinstance(alignment, int) and not isinstance(alignment, bool)
    if not whole or not 0 < alignment <= _CHUNK_BYTES:
        raise _odd(path, f"its general.alignment is {_shown(str(alignment))}")
    start = -(-reader.place // alignment) * alignment
    return GgufHeader(metadata, digest, tensors, start, alignment)


def _tensor(reader: _Reader) -> TensorInfo:
    count = reader.scalar("I")
    if count > _MOST_SIZES:
        raise EOFError
    sizes = [reader.scalar("Q") for _ in range(count)]
    return TensorInfo(tuple(reversed(sizes)), reader.scalar("I"), reader.scalar("Q"))


def _odd(path: Path, what: str) -> ModelRefusedError:
    return ModelRefusedError(f"{path}: {what}.", "Fetch the file again, or convert it again.")


def _shown(name: str) -> str:
    """A name from the file, fit for a terminal."""
    text = name if name.isprintable() and name else repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
