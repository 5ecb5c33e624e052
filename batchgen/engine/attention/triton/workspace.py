"""Where the attention kernels leave unfinished softmaxes, for all layers of a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["Workspace"]


class Workspace:
    """Accumulators in float32, and (peak, total) of their softmax: of pieces of split entries, and
    of keys read for several sequences at once.

    Decodes and chunks have pieces of their own: they may be computed at one time, the chunks on
    `side`. None where there are no streams.
    """

    def __init__(self, device: torch.device) -> None:
        (
            self.acc,
            self.stats,
            self.chunk_acc,
            self.chunk_stats,
            self.shared_acc,
            self.shared_stats,
        ) = (torch.empty(0, dtype=torch.float32, device=device) for _ in range(6))
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def grow(self, decode_rows: int, chunk_rows: int, dim: int) -> None:
        """Room for so many rows of pieces."""
        self.acc = _grown(self.acc, decode_rows * dim)
        self.stats = _grown(self.stats, 2 * decode_rows)
        self.chunk_acc = _grown(self.chunk_acc, chunk_rows * dim)
        self.chunk_stats = _grown(self.chunk_stats, 2 * chunk_rows)

    def pieces(self, *, chunks: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Accumulators and softmaxes of one launch's pieces."""
        return (self.chunk_acc, self.chunk_stats) if chunks else (self.acc, self.stats)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What is launched within runs beside what comes after, until `join`."""
        if self.side is None:
            yield
            return
        self.side.wait_stream(torch.cuda.current_stream(self.side.device))
        with torch.cuda.stream(self.side):
            yield

    def join(self) -> None:
        """Wait, on the device, for what runs beside."""
        if self.side is not None:
            torch.cuda.current_stream(self.side.device).wait_stream(self.side)

    def grow_shared(self, rows: int, dim: int) -> None:
        """Room for so many rows of shared reads."""
        self.shared_acc = _grown(self.shared_acc, rows * dim)
        self.shared_stats = _grown(self.shared_stats, 2 * rows)


def _grown(tensor: torch.Tensor, size: int) -> torch.Tensor:
    return tensor if tensor.numel() >= size else tensor.new_empty(size)
