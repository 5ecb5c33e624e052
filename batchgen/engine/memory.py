"""How much memory was used, and giving it back. Bytes."""

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
"""The latter is as far as the C library goes on 64 bits."""


def give_back_freed() -> None:
    """Hand the system what the process has freed and the C library keeps (GNU's; others do not)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Inside, a large block goes back to the system when it is freed, not some time after (GNU's C
    library): a load's logits and activations come once. Then as that library ends up by itself,
    which is quicker for steps: their blocks are the same again and again."""
    _allocate(_LARGE, 2 * _LARGE)
    try:
        yield
    finally:
        _allocate(_LARGEST, 2 * _LARGEST)


def _allocate(own_mapping: int, kept: int) -> None:
    """From how many bytes on a block is a mapping of its own; how many freed ones are kept."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, own_mapping)
        mallopt(_TRIM_THRESHOLD, kept)


def give_back_loaded(device: torch.device) -> None:
    """As `give_back_freed`, once a part of a load is over that is not to come again: on a CPU,
    where the model shares its memory with them, also what libraries' files have there."""
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
