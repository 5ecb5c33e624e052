"""What kind of failure an exception from the device is."""

from __future__ import annotations

import torch

from batchgen.errors import BatchgenError

__all__ = ["is_fatal", "is_out_of_memory", "without_frames"]

_MEMORY = (
    "can't allocate memory",  # torch on a CPU
    "not enough memory",
    "CUDA error: out of memory",  # outside of torch's allocator: a graph, a library's workspace
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""RuntimeErrors after which the device, or the host, still works."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether less work at once may succeed, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY)


def is_fatal(error: Exception) -> bool:
    """Whether the device, or another that shares the model, is lost: every later call fails too."""
    if isinstance(error, BatchgenError):
        return True
    if is_out_of_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def without_frames(error: Exception) -> Exception:
    """The error without its traceback, whose frames would keep a failed step's tensors alive."""
    error.__context__ = None
    return error.with_traceback(None)
