"""The launches that look for the floors of rows which whole tiles of programs search together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton

from batchgen.engine.gpu import num_sms
from batchgen.engine.sampling.triton.score_kernel import BLOCK
from batchgen.engine.sampling.triton.wide_kernel import (
    NUM_PASSES,
    NUM_PIVOTS,
    wide_draw_kernel,
    wide_mass_kernel,
    wide_pass_kernel,
)

__all__ = ["WideSearch"]

_WIDE = 512
"""Scores that a program compares with all pivots at a time."""
_PROGRAMS_PER_SM = 8
"""A program mostly waits: for its row, its bounds, its tile, one after the other."""


class WideSearch:
    """Memory for the largest step. `filter_kernel` enters rows; `count` is how many there are."""

    def __init__(self, rows: int, tiles: int, device: torch.device) -> None:
        def empty(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._tiles = tiles
        self.count = empty(1)
        self.rows, self._floors = empty(rows), empty(rows)
        self.bounds = empty(rows, 2 * NUM_PASSES)
        self._sums = [empty(rows, tiles, NUM_PIVOTS, dtype=torch.float32) for _ in range(2)]
        self._masses = empty(rows, tiles, dtype=torch.float64)
        self._programs = 2  # the interpreter's
        if device.type == "cuda":
            self._programs = _PROGRAMS_PER_SM * num_sms(device)

    def launches(
        self,
        step: tuple[torch.Tensor, ...],
        keys: torch.Tensor,
        tokens: torch.Tensor,
        vocab_size: int,
        stride: int,
    ) -> Iterator[partial[Any]]:
        """They overwrite the tokens of the rows that were entered. `step`: logits, scores, slots,
        positions, the records as words, float32 and float64, largest scores and masses of rows."""
        grid, tiles = (self._programs,), self._tiles
        shape = {"TILES": triton.next_power_of_2(tiles), "BLOCK": BLOCK}
        for number in range(NUM_PASSES):
            sums, before = self._sums[number % 2], self._sums[1 - number % 2]
            yield partial(
                wide_pass_kernel[grid], *step, self.count, self.rows, self.bounds, sums, before,
                vocab_size, stride, tiles, PASS=number, WIDE=_WIDE, num_warps=8, **shape,
            )  # fmt: skip
        last = self._sums[(NUM_PASSES - 1) % 2]
        yield partial(
            wide_mass_kernel[grid], *step, self.count, self.rows, self.bounds, last, self._floors,
            self._masses, vocab_size, stride, tiles, WIDE=_WIDE, num_warps=8, **shape,
        )  # fmt: skip
        yield partial(
            wide_draw_kernel[grid], *step, self.count, self.rows, self._floors, self._masses, keys,
            tokens, vocab_size, stride, tiles, WIDE=1024, num_warps=8, **shape,
        )  # fmt: skip
