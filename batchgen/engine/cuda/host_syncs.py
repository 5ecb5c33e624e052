"""Finds steps that wait for the device, which no CUDA graph can hold, before a capture is begun."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

import torch

__all__ = ["WaitsForDeviceError", "forbid_waiting", "notice_waiting"]

_WORDS = "synchronizing CUDA operation"
_one_engine = threading.RLock()
"""The mode is the process's: of two engines in two threads, the one that leaves last would set the
other's for good."""


class WaitsForDeviceError(RuntimeError):
    """An operator read a result of the device on the host."""


@contextlib.contextmanager
def forbid_waiting() -> Iterator[None]:
    """Within, torch's operators raise WaitsForDeviceError instead of waiting for the device."""
    try:
        with _mode(2):
            yield
    except RuntimeError as error:
        if _WORDS not in str(error):
            raise
        raise WaitsForDeviceError(str(error)) from error


@contextlib.contextmanager
def notice_waiting() -> Iterator[list[str]]:
    """As `forbid_waiting`, but operators wait; after it the list says so."""
    waits = list[str]()
    with _mode(1), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield waits
    waits += [str(one.message) for one in said if _WORDS in str(one.message)]


@contextlib.contextmanager
def _mode(mode: int) -> Iterator[None]:
    with _one_engine:
        before = torch.cuda.get_sync_debug_mode()
        _set(mode)
        try:
            yield
        finally:
            _set(before)


def _set(mode: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may overlook some: those fail in the capture
        torch.cuda.set_sync_debug_mode(mode)
