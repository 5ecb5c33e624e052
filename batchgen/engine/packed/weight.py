"""One tensor of a GGUF file, as small in memory as there: its rows in another order at most.

With the C kernels it lies in panels that they read; without them it keeps the file's blocks, and
each product dequantises them anew.
"""

from __future__ import annotations

import functools
import logging
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from batchgen.engine.kernels.quant import QuantKernels, QuantWeight
from batchgen.engine.packed.quantizing import Q4_1, Q8_0, dense_blocks
from batchgen.engine.packed.rounding import BLOCKS, is_wide, round_rows

__all__ = ["PackedWeight", "dequantised", "pack_rows"]

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 20
"""Values that are dequantised at once without the kernels: 4 MiB."""
_TOLERANCE = 1e-4
"""Of the kernels on random blocks, relative to the largest answer: sums in another order."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """[num_outputs, num_inputs], in blocks of ggml's type `kind`.

    `data`: panels for the kernels; without them uint8 [num_outputs, bytes of a row].
    """

    kind: int
    num_outputs: int
    num_inputs: int
    data: torch.Tensor
    kernels: QuantKernels | None

    def __deepcopy__(self, memo: Any) -> PackedWeight:
        """Clones of a module share their weights."""
        return self

    def rows(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows of the weight, [*ids.shape, num_inputs]. Raises IndexError as a table does."""
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_outputs:
            raise IndexError(f"row ids are to lie from 0 to {self.num_outputs - 1}")
        if self.kernels is not None and dtype in (torch.float32, torch.bfloat16):
            return self.kernels.rows(self.data, self.kind, ids, self.num_inputs, dtype)
        if self.kernels is not None:
            return self.rows(ids, torch.float32).to(dtype)
        flat = dequantised(self.data[ids.reshape(-1)], self.kind)
        return flat.to(dtype).reshape(*ids.shape, self.num_inputs)

    def chunks(self) -> Iterator[torch.Tensor]:
        """Its values in float32, some outputs at a time."""
        step = max(1, _CHUNK // self.num_inputs)
        for start in range(0, self.num_outputs, step):
            stop = min(start + step, self.num_outputs)
            yield self.rows(torch.arange(start, stop), torch.float32)

    def multiply(self, x: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        """x weight^T by PyTorch alone, float32 [..., num_outputs]. `exact`: x is not rounded."""
        x = x.float() if exact else round_rows(x, self.kind)
        return torch.cat([F.linear(x, chunk) for chunk in self.chunks()], dim=-1)


def pack_rows(raw: Any, order: Any, kind: int, num_inputs: int) -> PackedWeight:
    """Rows `order` of `raw` (uint8 [rows, bytes of a row], numpy)."""
    kernels = QuantKernels.load()
    if kernels is None or not _is_proven(kernels, kind):
        data = torch.from_numpy(np.ascontiguousarray(raw[order]))
        return PackedWeight(kind, len(order), num_inputs, data, None)
    return _packed(kernels, raw, order, kind, num_inputs)


def _packed(
    kernels: QuantKernels, raw: Any, order: Any, kind: int, num_inputs: int
) -> PackedWeight:
    addresses = raw.ctypes.data + np.asarray(order, np.uint64) * np.uint64(raw.shape[1])
    data = kernels.pack(addresses, kind, num_inputs)
    return PackedWeight(kind, len(order), num_inputs, data, kernels)


def dequantised(raw: torch.Tensor, kind: int) -> torch.Tensor:
    """Rows of blocks, uint8 [rows, bytes of a row], in float32."""
    if kind in (Q4_1, Q8_0):
        return dense_blocks(raw, kind)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    if not len(raw):
        return torch.empty(0, raw.shape[1] // BLOCKS[kind][1] * BLOCKS[kind][0])
    dense = dequantize(raw.numpy(), GGMLQuantizationType(kind))
    return torch.from_numpy(np.ascontiguousarray(dense))


@functools.cache
def _is_proven(kernels: QuantKernels, kind: int) -> bool:
    """Whether the kernels answer for this type as PyTorch does, on random blocks."""
    raw, num_inputs = _random_blocks(kind)
    weight = _packed(kernels, raw, np.arange(len(raw)), kind, num_inputs)
    values = dequantised(torch.from_numpy(raw), kind)
    handle = QuantWeight.of([(weight.data, kind, len(raw))])
    right = torch.equal(weight.rows(torch.arange(len(raw)), torch.float32), values)
    for num_rows in (1, 5):
        x = torch.randn(num_rows, num_inputs, generator=torch.Generator().manual_seed(num_rows))
        expected = F.linear(round_rows(x, kind), values)
        error = (kernels.multiply(x, handle, len(raw), None) - expected).abs().max()
        right = right and bool(error <= _TOLERANCE * expected.abs().max())
    if not right:
        _LOG.warning("CPU: the kernel for ggml's type %d answers wrongly here: not used", kind)
    return right


def _random_blocks(kind: int) -> tuple[Any, int]:
    """24 rows of two blocks of 256 values, with scales of ordinary size."""
    values, size = BLOCKS[kind]
    draw = random.Random(0)
    shape = (24, 512 // values, size)
    blocks = np.frombuffer(bytearray(draw.randbytes(math.prod(shape))), np.uint8).reshape(shape)
    places = [208] if kind == 14 else [0, 2] if is_wide(kind) or kind in (3, 7) else [0]
    for place in places:
        drawn = [draw.uniform(0.005, 0.02) for _ in range(math.prod(shape[:2]))]
        scales = np.array(drawn, np.float16).reshape(*shape[:2], 1)
        blocks[..., place : place + 2] = scales.view(np.uint8)
    return blocks.reshape(24, -1), 512
