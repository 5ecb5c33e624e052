"""Where the attention kernels leave unfinished softmaxes, for all layers of a device."""

from __future__ import annotations

import torch

__all__ = ["Workspace"]


class Workspace:
    """Accumulators in float32, and (peak, total) of their softmax: of pieces of split entries, and
    of keys read for several sequences at once."""

    def __init__(self, device: torch.device) -> None:
        self.acc, self.stats, self.shared_acc, self.shared_stats = (
            torch.empty(0, dtype=torch.float32, device=device) for _ in range(4)
        )

    def grow(self, rows: int, dim: int) -> None:
        """Room for so many rows of pieces."""
        self.acc, self.stats = _grown(self.acc, rows * dim), _grown(self.stats, 2 * rows)

    def grow_shared(self, rows: int, dim: int) -> None:
        """Room for so many rows of shared reads."""
        self.shared_acc = _grown(self.shared_acc, rows * dim)
        self.shared_stats = _grown(self.shared_stats, 2 * rows)


def _grown(tensor: torch.Tensor, size: int) -> torch.Tensor:
    return tensor if tensor.numel() >= size else tensor.new_empty(size)
