"""A tensor's values: mapped from the file, dequantised where they are quantised."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from batchgen.engine.packed.weight import dequantised
from batchgen.gguf.parts import GgufFile, num_bytes
from batchgen.gguf.tensors import Source, To, scale_name

__all__ = ["moved", "raw_bytes", "read_values", "weight_of"]

_PLAIN = {0: np.float32, 1: np.float16, 28: np.float64}
_BFLOAT16 = 30


def read_values(file: GgufFile, name: str, rows: slice = slice(None)) -> torch.Tensor:
    """The tensor as the file holds it, in its own float type, or float32 where it is quantised or
    has a scale beside it. `rows`: of a matrix, these alone."""
    values = _stored_values(file, name, rows)
    if scale_name(name) not in file.tensors:
        return values
    scale = _stored_values(file, scale_name(name)).float()
    return values * scale.reshape(-1, *[1] * (values.ndim - 1))


def _stored_values(file: GgufFile, name: str, rows: slice = slice(None)) -> torch.Tensor:
    info, raw = file.tensors[name], np.asarray(raw_bytes(file, name))
    raw = raw.reshape(math.prod(info.shape[:-1]), -1)[rows]
    shape = (-1, *info.shape[1:])
    if info.kind == _BFLOAT16:
        return torch.from_numpy(np.array(raw)).view(torch.bfloat16).reshape(shape)
    if info.kind in _PLAIN:
        return torch.from_numpy(np.array(raw).view(_PLAIN[info.kind])).reshape(shape)
    return dequantised(torch.from_numpy(raw), info.kind).reshape(shape)


def raw_bytes(file: GgufFile, name: str) -> Any:
    """The tensor's bytes, mapped: uint8 [bytes]. What is written there stays out of the file."""
    home, start = file.place_of(name)
    return np.memmap(home, np.uint8, "c", start, (num_bytes(home, name, file.tensors[name]),))


def weight_of(file: GgufFile, sources: list[Source]) -> torch.Tensor:
    """One weight of the module, from one tensor of the file or several."""
    pieces = [moved(read_values(file, one.name), one.to, one.is_bias) for one in sources]
    how = sources[0].to.how
    if how == "join":
        return torch.cat(pieces, dim=sources[0].to.axis)
    if how == "interleave":
        return torch.stack(pieces, dim=-1).flatten(-2)
    if len(pieces) != 1:
        raise ValueError(f"several tensors for one weight: {[one.name for one in sources]}")
    return pieces[0]


def moved(values: torch.Tensor, to: To, is_bias: bool) -> torch.Tensor:
    """A tensor of the file as the module has it; joins and pairs come after it."""
    if to.rows is not None:
        values = values[slice(*to.rows)]
    if to.how == "unpermute":
        return _unpermuted(values, to.heads)
    if to.how == "minus_one":
        return values if is_bias else values.float() - 1
    if to.how in ("transpose", "interleave"):
        return values if is_bias else values.transpose(-1, -2)
    if to.how == "row":
        return values.reshape(1, -1)
    if to.how == "heads_first":
        values = values.unflatten(0, (3, to.heads, -1)).transpose(0, 1).flatten(0, 2)
    return values


def _unpermuted(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from pairs side by side (0, 1), (2, 3) to halves."""
    moved: torch.Tensor = values.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
    return moved
