"""Finds steps that wait for the device, which no CUDA graph can hold, before a capture is begun."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch

__all__ = ["WaitsForDeviceError", "forbid_waiting", "notice_waiting"]

_WORDS = "synchronizing CUDA operation"


class WaitsForDeviceError(RuntimeError):
    """An operator read a result of the device on the host."""


@contextlib.contextmanager
def forbid_waiting() -> Iterator[None]:
    """Within, torch's operators raise WaitsForDeviceError instead of waiting for the device."""
    before = torch.cuda.get_sync_debug_mode()
    _set(2)
    try:
        yield
    except RuntimeError as error:
        if _WORDS not in str(error):
            raise
        raise WaitsForDeviceError(str(error)) from error
    finally:
        _set(before)


@contextlib.contextmanager
def notice_waiting() -> Iterator[list[str]]:
    """As `forbid_waiting`, but operators wait; after it the list says so."""
    before, waits = torch.cuda.get_sync_debug_mode(), list[str]()
    _set(1)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield waits
    finally:
        _set(before)
    waits += [str(one.message) for one in said if _WORDS in str(one.message)]


def _set(mode: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may overlook some: those fail in the capture
        torch.cuda.set_sync_debug_mode(mode)
