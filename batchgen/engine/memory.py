"""Peak memory, and giving memory back to the system. All sizes in bytes."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from batchgen.startup.host_memory import peak_resident_bytes
from batchgen.startup.library_pages import let_go_of_library_pages

__all__ = [
    "freed_at_once",
    "give_back_freed",
    "give_back_loaded",
    "peak_memory_bytes",
    "release_memory",
]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
_LARGE, _LARGEST = 1 << 18, 32 << 20
"""Blocks from these sizes on are mappings of their own: during a load, and after it (the largest
threshold that glibc allows on 64 bits)."""


def give_back_freed() -> None:
    """Return to the system what the process has freed and glibc still keeps (other C libraries: no
    effect)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Inside, glibc returns a large block to the system as soon as it is freed: a load's logits and
    activations are used once, and would add up. Afterwards freed blocks are kept, which is faster
    for steps, as they allocate the same sizes again and again."""
    _allocate(_LARGE, 2 * _LARGE)
    try:
        yield
    finally:
        _allocate(_LARGEST, 2 * _LARGEST)


def _allocate(own_mapping: int, kept: int) -> None:
    """Blocks of `own_mapping` bytes or more are mappings of their own; up to `kept` freed bytes
    stay with the process."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, own_mapping)
        mallopt(_TRIM_THRESHOLD, kept)


def give_back_loaded(device: torch.device) -> None:
    """As `give_back_freed`, after a stage of a load. On a CPU, where the model needs the same
    memory, also drop the pages of libraries' files, which the system reads again when they are
    used."""
    give_back_freed()
    if device.type == "cpu":
        let_go_of_library_pages()


def peak_memory_bytes() -> int:
    """Peak of the GPU's allocator where one is used, else the process's resident peak."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return max(map(torch.cuda.max_memory_reserved, range(torch.cuda.device_count())))
    return peak_resident_bytes()


def release_memory() -> None:
    """Give cached memory back after an allocation failed."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
