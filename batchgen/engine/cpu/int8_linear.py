"""Linear layers in 8 bits on the CPU, opt-in: weights have a scale an output.

They are rounded once at load, the rows at every call; products are exact in 32-bit integers. Rows
keep up to 16 bits, or with AVX-512 VNNI 8 with a scale and a zero for each 32 inputs (see
kernels/levels.h): oneDNN's one scale a row costs 4% of perplexity.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from batchgen.engine.cpu.linear import LinearFunction, PackedLinear, equals_linear
from batchgen.engine.kernels.ops import Operators, WeightKind

__all__ = ["Int8Rows", "int8_rows", "pack_int8"]

_LOG = logging.getLogger(__name__)
_LEVELS = 127.0
_TOLERANCE = 0.05
"""Largest difference from F.linear on normal rows, relative to its largest answer: a broken kernel
is off by more, rounding to 8 bits by less."""
_TRIALS, _TRIAL_ROWS, _TRIAL_INPUTS, _TRIAL_OUTPUTS = 9, 64, 512, 768
_HALF_LEVEL = 0.51
"""Of a level: the most that rounding changes a value, and a little for the arithmetic."""


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """An embedding: rows of a weight that was packed for the project's own product."""

    packed: PackedLinear
    dtype: torch.dtype

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 ids of any shape -> [*ids.shape, num_inputs]."""
        operators = Operators.load()
        assert operators is not None
        return operators.int8_rows(ids, self.packed.parts, self.packed.num_inputs, self.dtype)

    def equals(self, weight: torch.Tensor) -> bool:
        """Whether rows are the weight's but for rounding, looked at from end to end."""
        ids = torch.linspace(0, weight.shape[0] - 1, 64).long()
        assert self.packed.scale is not None
        error = (self(ids).float() - weight[ids].float()).abs()
        slack = weight[ids].float().abs() / 128 if self.dtype == torch.bfloat16 else 0.0
        return bool((error <= self.packed.scale[ids, None] * _HALF_LEVEL + slack).all())


def int8_rows(packed: Any, dtype: torch.dtype) -> Int8Rows | None:
    """Of what `pack_int8` made; None where it made nothing."""
    return Int8Rows(packed, dtype) if isinstance(packed, PackedLinear) else None


def pack_int8(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction | None:
    """x -> x weight^T + bias in 8 bits, or None where no kernel can or it answers wrongly.

    weight: [num_outputs, num_inputs], float32 or bfloat16.
    """
    operators = Operators.load()
    if operators is None:
        return None
    if operators.has_int8_tiles:
        _choose_tiles(operators)
    function = _own_kernel(operators, weight, bias)
    same = function is not None and equals_linear(function, weight, bias, _TOLERANCE)
    return function if same else None


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [num_outputs, num_inputs] and float32 [num_outputs]."""
    scale = (weight.float().abs().amax(dim=1) / _LEVELS).clamp(min=1e-12)
    levels = (weight.float() / scale[:, None]).round().clamp(-_LEVELS, _LEVELS)
    return levels.to(torch.int8), scale


def _own_kernel(
    operators: Operators, weight: torch.Tensor, bias: torch.Tensor | None
) -> LinearFunction | None:
    num_outputs, num_inputs = weight.shape
    if not operators.can_pack_int8(num_inputs):
        return None
    levels, scale = _rounded(weight)
    kept = None if bias is None else bias.detach().float().contiguous()
    packed = operators.pack_int8(levels)
    return PackedLinear(packed, num_inputs, num_outputs, kept, WeightKind.INT8, _run, scale)


@functools.cache
def _choose_tiles(operators: Operators) -> None:
    """Let matrix tiles (AMX) have many rows where that is faster on this machine: measured, in a
    few milliseconds, as bits are equal either way (kernels/int8_tiles.h). Of times in turns the
    least: what else runs on the machine only ever adds to one."""
    layer = _own_kernel(operators, torch.randn(_TRIAL_OUTPUTS, _TRIAL_INPUTS), None)
    assert layer is not None
    x = torch.randn(_TRIAL_ROWS, _TRIAL_INPUTS)
    least = {False: math.inf, True: math.inf}
    for _ in range(_TRIALS):
        for tiles in least:
            operators.use_int8_tiles(tiles)
            began = time.perf_counter()
            layer(x)
            least[tiles] = min(least[tiles], time.perf_counter() - began)
    operators.use_int8_tiles(least[True] < least[False])
    _LOG.info("CPU: rows in 8 bits take %.0f us by VNNI, %.0f on tiles", *(
        1e6 * seconds for seconds in least.values()
    ))  # fmt: skip


def _run(x: torch.Tensor, layer: PackedLinear) -> torch.Tensor:
    operators = Operators.load()
    assert operators is not None
    return operators.int8_linear(x, layer.parts, layer.num_outputs)
