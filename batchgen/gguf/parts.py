"""A GGUF model on disk: one file, or the parts that a large one was split into."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError
from batchgen.gguf_header import GgufHeader, TensorInfo, read_gguf_header

__all__ = ["GgufFile", "num_bytes", "own_dtype", "part_paths", "read_gguf"]

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
# ggml's number of a type -> (values of a block, bytes of a block): ggml/src/ggml.c, type_traits.
_BLOCKS = {0: (1, 4), 1: (1, 2), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8)}
_BLOCKS |= {30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)}
_BLOCKS |= {9: (32, 36), 20: (32, 18), 39: (32, 17), 10: (256, 84), 11: (256, 110)}
_BLOCKS |= {12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66)}
_BLOCKS |= {17: (256, 74), 18: (256, 98), 19: (256, 50), 21: (256, 110), 22: (256, 82)}
_BLOCKS |= {23: (256, 136), 29: (256, 56), 34: (256, 54), 35: (256, 66), 40: (64, 36)}
_NO_WEIGHTS = {9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64"}
"""What ggml keeps activations in, and whole numbers."""
_OWN_DTYPES = {0: "float32", 1: "float16"}
"""By the ggml type of matrices, where all are alike (or some are float32)."""


@dataclass(frozen=True, slots=True)
class GgufFile:
    """`metadata`: the first part's. `homes`: the part in which each tensor lies. `starts`: the byte
    of each part at which its tensors begin."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    homes: dict[str, Path]
    starts: dict[Path, int]

    def without_vocabulary(self) -> GgufFile:
        """The same file, less what its metadata say of the tokenizer: 100,000 strings and more."""
        kept = {key: one for key, one in self.metadata.items() if not key.startswith("tokenizer.")}
        return replace(self, metadata=kept)

    def place_of(self, name: str) -> tuple[Path, int]:
        """The part that holds the tensor, and its first byte there."""
        home = self.homes[name]
        return home, self.starts[home] + self.tensors[name].offset


def part_paths(path: Path) -> tuple[Path, ...]:
    """All parts of the model whose first (or only) part is `path`, in order, there or not."""
    found = _PART.fullmatch(path.name)
    if found is None:
        return (path,)
    stem, _, count, suffix = found.groups()
    return tuple(
        path.with_name(f"{stem}-{number:05d}-of-{count}{suffix}")
        for number in range(1, int(count) + 1)
    )


def read_gguf(path: Path) -> GgufFile:
    """Read all parts' tables. Raises ModelRefusedError for parts that are missing or cut off."""
    first = read_gguf_header(path)
    number, count = _place(path, first)
    if number:
        raise ModelRefusedError(
            f"{path}: a later part of a split model (number {number + 1} of {count}).",
            f"Name its first part: {part_paths(path)[0].name}.",
        )
    paths = part_paths(path) if count > 1 else (path,)
    _check_parts(path, paths, count)
    headers = [read_gguf_header(one) for one in paths]
    homes: dict[str, Path] = {}
    tensors: dict[str, TensorInfo] = {}
    for number, (home, header) in enumerate(zip(paths, headers, strict=True)):
        _check_part(home, header, number, count, tensors)
        tensors |= header.tensors
        homes |= dict.fromkeys(header.tensors, home)
    wanted = first.metadata.get("split.tensors.count", len(tensors))
    if wanted != len(tensors):
        raise ModelRefusedError(
            f"{path}: its parts hold {len(tensors)} tensors, not {wanted}.",
            "Fetch all parts of one conversion again.",
        )
    starts = {home: header.data_start for home, header in zip(paths, headers, strict=True)}
    return GgufFile(path, first.metadata, tensors, homes, starts)


def _place(home: Path, header: GgufHeader) -> tuple[int, int]:
    """Which part it says to be, from 0, and of how many."""
    found = [header.metadata.get(key, 0) for key in ("split.no", "split.count")]
    if not all(isinstance(one, int) and one >= 0 for one in found):
        raise ModelRefusedError(
            f"{home}: its split.no and split.count are no numbers.", "Split the model again."
        )
    return found[0], found[1] or 1


def _check_parts(path: Path, paths: tuple[Path, ...], count: int) -> None:
    missing = [one.name for one in paths if not one.is_file()]
    if len(paths) != count:
        raise ModelRefusedError(
            f"{path}: the first of {count} parts, under another name than its parts have.",
            f"Give it back its name, which ends with -00001-of-{count:05d}.gguf.",
        )
    if missing:
        raise ModelRefusedError(
            f"{path}: one of {count} parts; {missing[0]} is missing.",
            "Fetch all parts into one folder.",
        )


def _check_part(
    home: Path, header: GgufHeader, number: int, count: int, before: dict[str, TensorInfo]
) -> None:
    twice = sorted(before.keys() & header.tensors.keys())
    if _place(home, header) != (number, count) or twice:
        raise ModelRefusedError(
            f"{home}: not part {number + 1} of {count} of this model.",
            "Fetch all parts of one conversion again.",
        )
    size = home.stat().st_size
    place = 0
    for name, info in header.tensors.items():
        length = num_bytes(home, name, info)
        if info.offset != place:  # one after another, as llama.cpp demands (ggml/src/gguf.cpp)
            raise ModelRefusedError(
                f"{home}: the tensor {name} is not where the one before it ends.",
                "Fetch the file again, or convert it again.",
            )
        if header.data_start + place + length > size:
            raise ModelRefusedError(
                f"{home}: cut off: the tensor {name} lies beyond its end.", "Fetch the file again."
            )
        place += -(-length // header.alignment) * header.alignment


def num_bytes(home: Path, name: str, info: TensorInfo) -> int:
    """Bytes of a tensor's data. Raises ModelRefusedError for a type that is not known."""
    if info.kind not in _BLOCKS:
        raise ModelRefusedError(
            f"{home}: the tensor {name} has ggml's type {info.kind}, which is not known.",
            "Take a file of another quantisation.",
        )
    if info.kind in _NO_WEIGHTS:
        raise ModelRefusedError(
            f"{home}: the tensor {name} is in ggml's {_NO_WEIGHTS[info.kind]}, in which no weight "
            "is.",
            "Fetch the file again, or convert it again.",
        )
    values, size = _BLOCKS[info.kind]
    count = 1
    for one in info.shape:
        count *= one
    if not info.shape or info.shape[-1] % values:
        raise ModelRefusedError(
            f"{home}: the tensor {name} has rows that are no whole blocks of its type.",
            "Fetch the file again.",
        )
    return count // values * size


def own_dtype(file: GgufFile) -> str:
    """What the matrices are stored in; bfloat16 for all that is quantised or mixed."""
    kinds = {info.kind for info in file.tensors.values() if len(info.shape) > 1}
    kinds = kinds - {0} or kinds
    return _OWN_DTYPES.get(kinds.pop(), "bfloat16") if len(kinds) == 1 else "bfloat16"
