"""Copies whole blocks of KV caches, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["TensorCopier"]


class TensorCopier:
    """Implements `BlockCopier` for any device. `stores`: keys and values of every layer, dense,
    the slots of a block side by side; `num_blocks` of them in each."""

    def __init__(self, stores: Sequence[torch.Tensor], num_blocks: int) -> None:
        # As bytes: not every type can be indexed, and a copy is one of bytes.
        self._stores = [store.view(num_blocks, -1).view(torch.uint8) for store in stores]

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """From the first block of each pair to the second, which no other pair has."""
        sources, targets = zip(*pairs, strict=True)
        index = torch.tensor([sources, targets], device=self._stores[0].device)
        for store in self._stores:
            store[index[1]] = store[index[0]]
