"""Copies whole blocks of all layers' KV caches in one launch.

A layer's keys of a block are 16 to 128 KiB: to copy them for each layer by itself would take the
host longer than the device.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from batchgen.engine.attention.copying import TensorCopier
from batchgen.engine.device import sent

__all__ = ["LaunchedCopier", "copy_kernel"]

_logger = logging.getLogger(__name__)

_BLOCK = 2048
_PROGRAMS = 8
"""For a block of one layer."""
_WORD = torch.int32


@triton.jit(do_not_specialize_on_alignment=["addresses"])  # type: ignore[untyped-decorator]
def copy_kernel(
    addresses: tl.tensor,  # int64 [num_stores]: where each store's blocks lie
    pairs: tl.tensor,  # int64 [num_pairs, 2]: source, target
    WORDS: tl.constexpr,  # int32 words of a block
    BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr,  # the grid's third size
) -> None:
    """A program copies every n-th part of a block of one store."""
    store = tl.load(addresses + tl.program_id(0)).to(tl.pointer_type(tl.int32))
    store = tl.multiple_of(store, 16)
    source = store + tl.load(pairs + 2 * tl.program_id(1)) * WORDS
    target = store + tl.load(pairs + 2 * tl.program_id(1) + 1) * WORDS
    for start in range(0, WORDS, PROGRAMS * BLOCK):
        at = start + tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
        inside = at < WORDS
        tl.store(target + at, tl.load(source + at, inside), inside)


class LaunchedCopier:
    """`TensorCopier`, by a kernel. Where that does not compile, or is seen to copy otherwise at its
    first use, PyTorch copies."""

    def __init__(self, stores: Sequence[torch.Tensor], num_blocks: int) -> None:
        self._plain = TensorCopier(stores, num_blocks)
        self._device = stores[0].device
        self._kinds: list[tuple[torch.Tensor, int]] = []
        """Addresses of the stores whose blocks have so many words."""
        rows = [store.view(num_blocks, -1) for store in stores]
        if any(one[0].numel() * one.element_size() % _WORD.itemsize for one in rows):
            self._proven: bool | None = False
            return
        self._proven = None
        self._rows = [one.view(_WORD) for one in rows]
        for words in sorted({rows.shape[1] for rows in self._rows}):
            found = [rows.data_ptr() for rows in self._rows if rows.shape[1] == words]
            self._kinds.append((sent(np.array(found, np.int64), self._device), words))

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """From the first block of each pair to the second, which no other pair has."""
        if self._proven is None:
            self._proven = self._prove(pairs)
        elif self._proven:
            self.launch(pairs)
        else:
            self._plain.copy(pairs)

    def launch(self, pairs: Sequence[tuple[int, int]]) -> None:
        """`copy`, by the kernel."""
        index = sent(np.array(pairs, np.int64), self._device)
        for addresses, words in self._kinds:
            grid = (len(addresses), len(pairs), _PROGRAMS)
            copy_kernel[grid](addresses, index, words, _BLOCK, _PROGRAMS, num_warps=4)

    def _prove(self, pairs: Sequence[tuple[int, int]]) -> bool:
        """Copy by the kernel, and see that it has."""
        try:
            self.launch(pairs)
            seen = [pairs[0], pairs[-1]]
            if all(torch.equal(rows[a], rows[b]) for rows in self._rows for a, b in seen):
                return True
            reason = "a block is not what it was copied from"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        _logger.warning("PyTorch copies blocks, for the kernel does not: %s", reason)
        self._plain.copy(pairs)
        return False
