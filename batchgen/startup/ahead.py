"""Work begun while Python still imports: none of it needs Python, so none of it waits for it.

The CUDA context is made through the driver itself, which torch then finds made; weights that are
not in memory yet are read, so that they are when they are loaded. All of it may fail without harm.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchgen.startup.host_memory import available_host_memory
from batchgen.startup.timeline import span

__all__ = ["Gpu", "find_gpu", "read_ahead"]

_DRIVER = "libcuda.so.1"
_COMPUTE_MODE, _MAJOR, _MINOR = 20, 75, 76  # CUdevice_attribute, of the driver's API
_CHUNK = 8 << 20
_SHARE_OF_MEMORY = 0.5


def find_gpu(device: str) -> Gpu | None:
    """The GPU that torch will take for `cuda`, `cuda:N` or `auto` (the first one), asked of the
    driver alone. The driver reads `CUDA_MODULE_LOADING`, which is to be set before."""
    number = device.partition(":")[2] or "0"
    if device == "cpu" or not number.isdecimal():
        return None
    try:
        driver = ctypes.CDLL(_DRIVER)
        handle = ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), int(number)):
            return None
        mode, major, minor = (
            _attribute(driver, handle, name) for name in (_COMPUTE_MODE, _MAJOR, _MINOR)
        )
    except (OSError, AttributeError):
        return None
    return Gpu(driver, handle, 10 * major + minor, is_shared=mode == 0)


def _attribute(driver: ctypes.CDLL, handle: ctypes.c_int, name: int) -> int:
    value = ctypes.c_int()
    failed = driver.cuDeviceGetAttribute(ctypes.byref(value), name, handle)
    return -1 if failed else value.value


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device of the driver's."""

    driver: ctypes.CDLL
    handle: ctypes.c_int
    capability: int
    """Of computing: 90 for 9.0."""
    is_shared: bool
    """Whether several processes may use it at a time."""

    def make_context(self) -> bool:
        """Make the context that torch will use, with the flags that torch gives it. Calls of a
        foreign function let other threads of Python run meanwhile."""
        context = ctypes.c_void_p()
        with span("cuda context"):
            return not self.driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), self.handle)


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
