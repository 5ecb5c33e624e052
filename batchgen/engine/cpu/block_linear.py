"""`--quantization q4`: linear layers in ggml's Q4_1, the head and the embedding in its Q8_0.

The weights are rounded once at load and multiplied as a GGUF file's are: rows in 8 bits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from batchgen.engine.cpu.linear import LinearFunction, pack_weight
from batchgen.engine.kernels.quant import QuantKernels
from batchgen.engine.packed.product import PackedProduct
from batchgen.engine.packed.quantizing import Q4_1, Q8_0, dense_blocks, round_to_blocks
from batchgen.engine.packed.rounding import BLOCKS
from batchgen.engine.packed.weight import PackedWeight, pack_rows

__all__ = ["BlockRows", "block_rows", "pack_ends", "pack_q4"]

_LOG = logging.getLogger(__name__)
_MOST_LOST = {Q4_1: 0.15, Q8_0: 0.02}
"""Relative error (L2) of the weight; ordinary ones lose 0.07 and 0.004. A layer that loses more
keeps its precision."""
_LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class BlockRows:
    """An embedding: rows of a packed weight."""

    packed: PackedWeight
    dtype: torch.dtype

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids of any shape -> [*ids.shape, num_inputs]."""
        return self.packed.rows(ids, self.dtype)

    def equals(self, weight: torch.Tensor) -> bool:
        """Whether rows are the weight's but for rounding: `pack_ends` has looked."""
        return len(weight) == self.packed.num_outputs


def block_rows(packed: Any, dtype: torch.dtype) -> BlockRows | None:
    """Of what `pack_ends` made."""
    return BlockRows(packed.weights[0], dtype) if isinstance(packed, PackedProduct) else None


def pack_q4(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction | None:
    """x -> x weight^T + bias in 4 bits, in the weight's own precision where too much is lost or
    the inputs are no whole blocks; None without the kernels."""
    if QuantKernels.load() is None:
        return None
    packed = _pack(weight, bias, Q4_1)
    if packed is None:
        _LOG.info("CPU: a layer of %s keeps its precision", [*weight.shape])
    return packed or pack_weight(weight, bias)


def pack_ends(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction | None:
    """The same in 8 bits: rounding to 4 is too coarse for the choice of a token."""
    return _pack(weight, bias, Q8_0)


def _pack(weight: torch.Tensor, bias: torch.Tensor | None, kind: int) -> PackedProduct | None:
    num_outputs, num_inputs = weight.shape
    if num_inputs % BLOCKS[kind][0] or QuantKernels.load() is None:
        return None
    raw = round_to_blocks(weight.detach(), kind)
    if not _lost(raw, weight, kind) <= _MOST_LOST[kind]:
        return None
    packed = pack_rows(raw.numpy(), torch.arange(num_outputs).numpy(), kind, num_inputs)
    return PackedProduct([packed], bias) if packed.kernels is not None else None


def _lost(raw: torch.Tensor, weight: torch.Tensor, kind: int) -> float:
    """Of some rows, from the first to the last."""
    ids = torch.linspace(0, len(weight) - 1, _LOOKED_AT).long()
    wanted = weight[ids].float()
    return float((dense_blocks(raw[ids], kind) - wanted).norm() / wanted.norm().clamp_min(1e-20))
