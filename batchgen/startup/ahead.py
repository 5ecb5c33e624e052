"""Work begun while Python still imports: none of it needs Python, so none of it waits for it.

The CUDA context is made through the driver itself, which torch then finds made; weights that are
not in memory yet are read, so that they are when they are loaded. All of it may fail without harm.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from batchgen.startup.host_memory import available_host_memory
from batchgen.startup.timeline import span

__all__ = ["make_cuda_context", "read_ahead"]

_DRIVER = "libcuda.so.1"
_CHUNK = 8 << 20
_SHARE_OF_MEMORY = 0.5


def make_cuda_context(device: str) -> bool:
    """Make the context that torch will use of `cuda`, `cuda:N` or `auto` (the first GPU).

    Whether there is one now. The same flags as torch's: it takes what the driver holds. The driver
    reads `CUDA_MODULE_LOADING`, which is to be set before.
    """
    number = device.partition(":")[2] or "0"
    if device == "cpu" or not number.isdecimal():
        return False
    try:
        driver = ctypes.CDLL(_DRIVER)
        with span("cuda context"):
            return _retain_context(driver, int(number))
    except (OSError, AttributeError):
        return False


def _retain_context(driver: ctypes.CDLL, number: int) -> bool:
    """Calls of a foreign function let other threads of Python run meanwhile."""
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    return not (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(handle), number)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle)
    )


def read_ahead(files: Sequence[Path]) -> int:
    """Bring files into the system's memory, as far as half of what is free; returns bytes read.

    Parts that are there already are asked for, not read.
    """
    left = int(available_host_memory() * _SHARE_OF_MEMORY)
    total = 0
    with span("read ahead"):
        for file in files:
            with suppress(OSError):
                total += _read(file, left - total)
    return total


def _read(file: Path, most: int) -> int:
    buffer, byte = memoryview(bytearray(_CHUNK)), bytearray(1)
    done = 0
    handle = os.open(file, os.O_RDONLY)
    try:
        for offset in range(0, os.fstat(handle).st_size, _CHUNK):
            if done + _CHUNK > most:
                break
            if not _is_in_memory(handle, byte, offset):
                done += os.preadv(handle, [buffer], offset)
    finally:
        os.close(handle)
    return done


def _is_in_memory(handle: int, byte: bytearray, offset: int) -> bool:
    try:
        return os.preadv(handle, [byte], offset, os.RWF_NOWAIT) == 1
    except OSError:  # it would have to wait, or the file system cannot tell
        return False
