"""Records what a step launches as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

from batchgen.engine.cuda.host_syncs import forbid_waiting

__all__ = ["Recorder"]


class Recorder:
    """Owns the memory that graphs work in: they run one after the other, so one pool serves all."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self.renew()

    def renew(self) -> None:
        """Begin a pool; a pool dies with its last graph."""
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, launch: Callable[[], object], *, rehearsed: bool) -> torch.cuda.CUDAGraph:
        """The graph of what `launch` launches, not run by that.

        Raises RuntimeError where that cannot be captured. Of what was run before, everything is
        compiled and allocated. Else a kernel may be loaded meanwhile, which nothing but a relaxed
        capture allows.
        """
        graph = torch.cuda.CUDAGraph()
        mode = "thread_local" if rehearsed else "relaxed"
        torch.cuda.synchronize(self._device)
        with torch.cuda.stream(self._stream), forbid_waiting():
            graph.capture_begin(pool=self._pool, capture_error_mode=mode)
            try:
                launch()
            finally:
                graph.capture_end()
        return graph
