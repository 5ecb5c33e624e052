"""Rounding a dense weight to ggml's blocks at load: Q4_1 and Q8_0, and back.

A block of 32 values of Q4_1 is `scale * code + minimum` with codes up to 15: the scale is looked
for among a few, each fitted to the block by least squares. Formats: ggml/src/ggml-common.h.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["Q4_1", "Q8_0", "dense_blocks", "round_to_blocks"]

Q4_1, Q8_0 = 3, 8
_BLOCK = 32
_SHARES = (1.0, 0.93, 0.86, 0.79)
"""Of the range from a block's least value to its largest: what lies outside is cut off."""
_CHUNK = 1 << 22
"""Values that are rounded at once."""
_TINY = 1e-7
"""A float16 scale below it is nought."""


def round_to_blocks(weight: torch.Tensor, kind: int) -> torch.Tensor:
    """[num_outputs, num_inputs], whole blocks of inputs -> uint8 [num_outputs, bytes of a row]."""
    rounding = {Q4_1: _round_q4_1, Q8_0: _round_q8_0}[kind]
    step = max(1, _CHUNK // weight.shape[1])
    return torch.cat([rounding(part.float()).flatten(1) for part in weight.split(step)])


def dense_blocks(raw: torch.Tensor, kind: int) -> torch.Tensor:
    """The reverse, in float32."""
    if kind == Q8_0:
        blocks = raw.unflatten(1, (-1, 34))
        scale = blocks[..., :2].contiguous().view(torch.float16).float()
        values: torch.Tensor = blocks[..., 2:].contiguous().view(torch.int8).float() * scale
        return values.flatten(1)
    blocks = raw.unflatten(1, (-1, 20))
    scale, minimum = blocks[..., :4].contiguous().view(torch.float16).float().split(1, dim=-1)
    codes = torch.cat([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], dim=-1)
    values = codes.float() * scale + minimum
    return values.flatten(1)


def _round_q8_0(weight: torch.Tensor) -> torch.Tensor:  # [num_outputs, blocks, 34]
    values = weight.unflatten(1, (-1, _BLOCK))
    scale = (values.abs().amax(dim=-1, keepdim=True) / 127).half()
    codes = (values * _inverse(scale)).round().clamp(-127, 127).to(torch.int8)
    return torch.cat([_bytes(scale), codes.view(torch.uint8)], dim=-1)


def _round_q4_1(weight: torch.Tensor) -> torch.Tensor:  # [num_outputs, blocks, 20]
    values = weight.unflatten(1, (-1, _BLOCK))
    least, most = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    best: Any = None
    for share in _SHARES:
        cut = (most - least) * (1 - share) / 2
        found = _fitted(values, (most - least) * share / 15, least + cut)
        best = found if best is None else _better(found, best)
    scale, minimum, codes, _ = best
    low, high = codes.to(torch.uint8).split(_BLOCK // 2, dim=-1)
    return torch.cat([_bytes(scale), _bytes(minimum), low | high << 4], dim=-1)


def _fitted(values: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> Any:
    """Scale and minimum by least squares over the codes that the given ones lead to; then the codes
    and the squared error."""
    codes = _codes(values, scale, minimum)
    mean, centre = values.mean(dim=-1, keepdim=True), codes.mean(dim=-1, keepdim=True)
    spread = (codes - centre).square().sum(dim=-1, keepdim=True)
    slope = ((codes - centre) * (values - mean)).sum(dim=-1, keepdim=True) / spread.clamp_min(1)
    scale = torch.where(spread > 0, slope, scale).half()
    minimum = (mean - slope * centre).half()
    codes = _codes(values, scale.float(), minimum.float())
    error = (codes * scale.float() + minimum.float() - values).square().sum(dim=-1, keepdim=True)
    return scale, minimum, codes, error


def _better(found: Any, best: Any) -> Any:
    lower = found[3] < best[3]
    return tuple(torch.where(lower, one, other) for one, other in zip(found, best, strict=True))


def _codes(values: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
    return ((values - minimum) * _inverse(scale)).round().clamp(0, 15)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    whole = scale.float()
    return torch.where(whole > _TINY, 1 / whole, torch.zeros_like(whole))


def _bytes(halves: torch.Tensor) -> torch.Tensor:
    return halves.contiguous().view(torch.uint8)
