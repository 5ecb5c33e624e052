"""Finds steps that wait for the device, which no CUDA graph can hold, before a capture is begun."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch

__all__ = ["WaitsForDeviceError", "forbid_waiting"]

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


def _set(mode: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may overlook some: those fail in the capture
        torch.cuda.set_sync_debug_mode(mode)
