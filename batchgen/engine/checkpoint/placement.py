"""Bringing a loaded module to its GPU, at the speed of the bus.

A checkpoint's tensors are only mapped to their file. `Module.to` has the driver fetch each one page
by page, in one thread, through a small buffer of its own. Here all cores copy into two large pinned
buffers in turn; while one is being filled, the GPU fetches the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from batchgen.startup import timeline

__all__ = ["Staging", "copy_all", "fetcher", "move", "place"]

_BUFFER_BYTES = 64 << 20
_LEAST_BYTES = 64 << 20
"""Smaller modules are not worth the pinned buffers."""
_ALIGNMENT = 16


def place(module: Any, device: torch.device) -> Any:
    """`module.to(device)`: the same parameters and buffers, in place; raises what it raises."""
    if device.type != "cuda" or _host_bytes(module) < _LEAST_BYTES:
        return module.to(device)
    staging = _staging()
    if staging is None:
        return module.to(device)
    with torch.cuda.device(device), timeline.span("to the GPU"):
        move(module, device, staging)
    return module


def fetcher(device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """What brings one tensor after another to the device, each as `Tensor.to` does."""
    staging = _staging() if device.type == "cuda" else None

    def fetch(tensor: torch.Tensor) -> torch.Tensor:
        if staging is None or tensor.device.type != "cpu" or not _is_plain(tensor):
            return tensor.to(device)
        target = torch.empty_like(tensor, device=device)
        copy_all([(tensor, target)], staging)
        return target

    return fetch


def _staging() -> Staging | None:
    """None where no memory may be pinned."""
    try:
        return Staging(_BUFFER_BYTES, pinned=True)
    except RuntimeError:
        return None


def move(module: Any, device: torch.device, staging: Staging) -> None:
    """Give every parameter and buffer of the host a new place on the device, then fill them all."""
    moves: list[tuple[torch.Tensor, torch.Tensor]] = []
    arrived: set[int] = set()

    def plan(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() in arrived:  # tied to one before
            return tensor
        if tensor.device.type != "cpu" or not _is_plain(tensor):
            return tensor.to(device)
        target = torch.empty_like(tensor, device=device)
        moves.append((tensor.detach(), target))  # the parameter itself is about to change
        arrived.add(target.data_ptr())
        return target

    module._apply(plan)
    copy_all(moves, staging)


def _host_bytes(module: Any) -> int:
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.nbytes for tensor in tensors if tensor.device.type == "cpu")


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its bytes, one after another, are all there is to it."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return plain and tensor.layout == torch.strided and tensor.is_contiguous()


def copy_all(moves: Iterable[tuple[torch.Tensor, torch.Tensor]], staging: Staging) -> None:
    """Copy each first tensor to its second one, of the same shape and dtype, both contiguous: on
    the current stream, so that whatever comes after finds them whole."""
    for source, target in moves:
        if not source.numel():
            continue
        held, wanted = (t.detach().reshape(-1).view(torch.uint8) for t in (source, target))
        for start, part in staging.parts(held.numel()):
            end = start + part.numel()
            part.copy_(held[start:end])
            wanted[start:end].copy_(part, non_blocking=True)


class Staging:
    """Two buffers of host memory; one is filled while the other is on its way to the GPU."""

    def __init__(self, size: int, *, pinned: bool) -> None:
        self._buffers = [
            torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned) for _ in range(2)
        ]
        self._sent: list[torch.cuda.Event | None] = [None, None]
        self._pinned = pinned
        self._turn = 0
        self._used = 0

    def parts(self, count: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Room for `count` bytes, piece by piece: (offset, the piece), to be copied onward before
        the next one is asked for."""
        start = 0
        while start < count:
            part = self._take(count - start)
            yield start, part
            start += part.numel()

    def _take(self, most: int) -> torch.Tensor:
        size = self._buffers[0].numel()
        if self._used >= size:
            self._swap()
        part = self._buffers[self._turn][self._used : min(size, self._used + most)]
        self._used += -(-part.numel() // _ALIGNMENT) * _ALIGNMENT
        return part

    def _swap(self) -> None:
        if self._pinned:
            self._sent[self._turn] = torch.cuda.current_stream().record_event()
        self._turn, self._used = 1 - self._turn, 0
        sent = self._sent[self._turn]
        if sent is not None:
            sent.synchronize()
