"""Maxima, largest values and inverse cumulative sums of long rows, in two levels: blocks first.

On a CPU a reduction over short blocks runs at memory speed, torch's own over a whole vocabulary
8 times slower. Results are exact, and each row's depend on that row alone.
"""

from __future__ import annotations

import math

import torch

__all__ = ["first_above", "largest", "likeliest", "row_max"]

_BLOCK = 256
_SMALL_BLOCK = 64


def row_max(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest value of each row and the first index where it is, [num_rows] each.

    NaN counts as the largest; its index is then any valid one.
    """
    blocks = _blocks(rows, _BLOCK, -math.inf)  # [num_rows, num_blocks, block]
    maxima = blocks.amax(dim=-1)
    best = maxima.amax(dim=-1, keepdim=True)  # [num_rows, 1]
    block = _first_true(maxima == best)
    offset = _first_true(_pick(blocks, block) == best)
    index = (block * _BLOCK + offset).clamp(max=rows.shape[1] - 1)
    return best[:, 0], index[:, 0]


def largest(rows: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest values of each row, descending, [num_rows, k].

    They lie in the k blocks with the largest maxima, so few blocks need sorting.
    """
    blocks = _blocks(rows, _SMALL_BLOCK, -math.inf)
    if 4 * k > blocks.shape[1]:
        return rows.topk(k, dim=-1).values
    candidates = _pick(blocks, blocks.amax(dim=-1).topk(k, dim=-1).indices)
    return candidates.topk(k, dim=-1).values


def first_above(weights: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The first index at which the running sum of a row exceeds a share of its total, [num_rows].

    `weights` [num_rows, n] are not negative, `shares` [num_rows] lie in [0, 1).
    The running sums are float64; an index of weight zero is never found.
    """
    blocks = _blocks(weights, _BLOCK, 0.0)
    block_cdf = blocks.sum(dim=-1).double().cumsum(-1)  # [num_rows, num_blocks]
    target = shares[:, None] * block_cdf[:, -1:]
    block = _first_passing(block_cdf, target)  # [num_rows, 1]
    before = torch.where(block > 0, block_cdf.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = _pick(blocks, block).double().cumsum(-1)
    offset = _first_passing(inside, target - before)
    return (block * _BLOCK + offset)[:, 0].clamp(max=weights.shape[1] - 1)


def _first_passing(cdf: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Index of the first entry above the target, [num_rows, 1]; where rounding left none, of the
    last entry that adds something. Any valid index for a row of NaN."""
    last = torch.searchsorted(cdf, cdf[:, -1:].contiguous()).clamp(max=cdf.shape[1] - 1)
    return torch.minimum(torch.searchsorted(cdf, target.contiguous(), right=True), last)


def _first_true(mask: torch.Tensor) -> torch.Tensor:
    return mask.to(torch.uint8).argmax(dim=-1, keepdim=True)


def _blocks(rows: torch.Tensor, block: int, padding: float) -> torch.Tensor:
    """[num_rows, num_blocks, block], the last block padded."""
    missing = -rows.shape[1] % block
    if missing:
        rows = torch.nn.functional.pad(rows, (0, missing), value=padding)
    return rows.view(rows.shape[0], rows.shape[1] // block, block)  # not -1: there may be no rows


def _pick(blocks: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """The blocks at `indices` [num_rows, k], side by side: [num_rows, k * block]."""
    width = blocks.shape[2]
    picked = blocks.gather(1, indices[:, :, None].expand(-1, -1, width))
    return picked.view(len(blocks), indices.shape[1] * width)


def likeliest(values: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `most` largest of each row, descending, and their places: [num_rows, most]; of equals the
    first. A CPU takes long to sort a vocabulary, so there only rows with a tie at the end are."""
    if values.device.type != "cpu":
        ordered = torch.sort(values, dim=-1, descending=True, stable=True)
        return ordered.values[:, :most], ordered.indices[:, :most]
    places, torn = _likeliest_places(values, most)
    picked = torch.sort(values.gather(1, places), dim=-1, descending=True, stable=True)
    found, places = picked.values, places.gather(1, picked.indices)
    if len(torn):
        ordered = torch.sort(values[torn], dim=-1, descending=True, stable=True)
        found[torn], places[torn] = ordered.values[:, :most], ordered.indices[:, :most]
    return found, places


def _likeliest_places(values: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the `most` largest of each row are, ascending, [num_rows, most]; and the rows with more
    than these of the least one's size, or a NaN. They lie in the blocks with the largest maxima."""
    blocks = _blocks(values, _SMALL_BLOCK, -math.inf)
    if 4 * most > blocks.shape[1]:
        blocks, chosen = values[:, None], values.new_zeros(len(values), 1, dtype=torch.int64)
        maxima = values.new_full((len(values), 1), -math.inf)
    else:
        maxima = blocks.amax(dim=-1)
        chosen = maxima.topk(most, dim=-1).indices.sort(dim=-1).values
    candidates, width = _pick(blocks, chosen), blocks.shape[2]
    inner = candidates.topk(most, dim=-1).indices.sort(dim=-1).values
    least = candidates.gather(1, inner).amin(dim=-1, keepdim=True)
    fit = ((candidates >= least).sum(-1) == most) & ((maxima >= least).sum(-1) <= most)
    places = chosen.gather(1, inner // width) * width + inner % width
    return places.clamp(max=values.shape[1] - 1), (~fit).nonzero()[:, 0]
