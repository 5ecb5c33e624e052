"""Which attention backend serves a device; each is imported only when it is chosen."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch

from batchgen.engine.attention.interface import AttentionBackend
from batchgen.errors import UsageError

__all__ = ["BACKENDS", "backend_name", "select_backend"]

BACKENDS = {
    "reference": "batchgen.engine.attention.reference:ReferenceBackend",
    "cpu": "batchgen.engine.attention.cpu.paged:CpuAttention",
    "triton": "batchgen.engine.attention.triton.paged:TritonBackend",
}
PREFERRED = {"cpu": "cpu", "cuda": "triton"}


def select_backend(device: torch.device, name: str = "auto") -> AttentionBackend:
    """The named backend, or the best one for the device. Raises as `backend_name`."""
    module, _, attribute = BACKENDS[backend_name(device, name)].partition(":")
    backend: AttentionBackend = getattr(import_module(module), attribute)()
    return backend


def backend_name(device: torch.device, name: str = "auto") -> str:
    """Which backend `select_backend` will give. Raises UsageError for an unknown or wrong name."""
    if name == "auto":
        name = _best(device)
    if name not in BACKENDS:
        known = ", ".join(["auto", *BACKENDS])
        raise UsageError(f"unknown attention backend {name!r}", f"choose one of: {known}")
    if PREFERRED.get(device.type) != name and name != "reference":
        raise UsageError(
            f"attention backend {name!r} does not run on {device.type}",
            "leave --attention-backend out: the best one for the device is taken",
        )
    return name


def _best(device: torch.device) -> str:
    name = PREFERRED.get(device.type, "reference")
    needs_triton = name == "triton" and find_spec("triton") is None
    if needs_triton or find_spec(BACKENDS[name].partition(":")[0]) is None:
        return "reference"
    return name
