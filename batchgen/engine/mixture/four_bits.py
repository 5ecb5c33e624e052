"""MXFP4: numbers of 4 bits (e2m1) in blocks of 32 with a scale of 8 bits (e8m0, a power of 2), as
the OCP's Microscaling specification has them; and how they are laid out for the kernels.

Of 128 inputs, place i of a word holds input i of each block, at other bits each:

    block   0                1                2               3
    sign    15               12               9               11
    size    8 to 6           5 to 3           2 to 0          14, 13 and 10

A shift brings each where bfloat16 has its sign, the end of its exponent and its mantissa.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from batchgen.engine.quantization.float4 import numbers_of

__all__ = ["RUN", "Packed", "dense_blocks", "pack_blocks"]

RUN = 32
"""Numbers of a block."""
_BLOCKS = 4
"""Of a word."""
_LARGEST_SCALE = 128
"""Of 255: a power of 1. Beyond it, 2^126 times a scale is no bfloat16."""
_OFFSET = 126


@dataclass(frozen=True, slots=True)
class Packed:
    """Weights of some experts."""

    words: torch.Tensor  # int16 [.., num_outputs, 32 * num_steps]
    scales: torch.Tensor  # int32 [.., num_steps, num_outputs]: four bytes, a block each


def pack_blocks(blocks: torch.Tensor, scales: torch.Tensor) -> Packed:
    """From an expert's tensors of a checkpoint: uint8 [num_outputs, num_blocks, 16], even inputs
    in the lower bits, and [num_outputs, num_blocks]. Raises ValueError for too large a scale."""
    if int(scales.max()) > _LARGEST_SCALE:
        raise ValueError(f"a scale of 2^{int(scales.max()) - 127} is too large")
    outputs, count, _ = blocks.shape
    codes = torch.stack([blocks & 15, blocks >> 4], dim=-1).view(outputs, count, RUN)
    codes = F.pad(codes, (0, 0, 0, -count % _BLOCKS)).int()
    one, two, three, four = codes.view(outputs, -1, _BLOCKS, RUN).unbind(2)
    words = _at(one, 15, 6) | _at(two, 12, 3) | _at(three, 9, 0)
    words |= (four >> 3) << 11 | ((four >> 1) & 3) << 13 | (four & 1) << 10
    held = F.pad(scales, (0, -count % _BLOCKS)).long() + _OFFSET
    parts = held.view(outputs, -1, _BLOCKS).unbind(2)
    together = sum(part << (8 * place) for place, part in enumerate(parts))
    assert isinstance(together, torch.Tensor)
    return Packed(_wrapped(words, 16).reshape(outputs, -1), _wrapped(together, 32).T.contiguous())


def dense_blocks(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The numbers of such tensors by the definition, float32 [num_outputs, num_inputs]."""
    numbers = numbers_of(blocks) * torch.exp2(scales.float() - 127)[..., None]
    return numbers.flatten(-2)


def _at(codes: torch.Tensor, sign: int, size: int) -> torch.Tensor:
    return (codes >> 3) << sign | (codes & 7) << size


def _wrapped(values: torch.Tensor, bits: int) -> torch.Tensor:
    """The same bits as a signed number."""
    kind = torch.int16 if bits == 16 else torch.int32
    return torch.where(values >= 1 << (bits - 1), values - (1 << bits), values).to(kind)
