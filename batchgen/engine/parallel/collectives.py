"""The collectives of tensor parallelism, as operators that a compiled layer and a CUDA graph may
hold.

All use the process's one group. Sums of floats are the same bits on every rank: each part is summed
on one rank and sent to all.
"""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from batchgen.causes import first_line

__all__ = ["all_gather_last", "all_reduce", "forget_shared_memory", "own_share", "share_memory"]

_logger = logging.getLogger(__name__)
_SHARED_BYTES = 32 << 20
"""Largest sum that goes through shared GPU memory; larger ones take as long through NCCL."""
_shared: dict[torch.dtype, torch.Tensor] = {}


def share_memory(device: torch.device) -> None:
    """Set up memory of this GPU that the other ranks read and write; called by all ranks at once.
    Where it cannot be had, all sums go through NCCL."""
    try:
        import torch.distributed._symmetric_memory as symmetric

        part = symmetric.empty(_SHARED_BYTES // 2, dtype=torch.bfloat16, device=device)
        symmetric.rendezvous(part, dist.group.WORLD)  # type: ignore[arg-type]
    except Exception as error:  # of a driver, a build or a host without it
        _logger.info("GPUs add up through NCCL: %s", first_line(error))
        return
    _shared.update({torch.bfloat16: part, torch.float32: part.view(torch.float32)})


def forget_shared_memory() -> None:
    """Free that memory, before the group ends."""
    _shared.clear()


def _group_name() -> str:
    name: str = dist.group.WORLD.group_name  # type: ignore[union-attr]
    return name


@torch.library.custom_op("batchgen::all_reduce", mutates_args=("x",))
def all_reduce(x: torch.Tensor) -> None:
    """Every rank's `x` becomes the sum of all, in place. It has the same layout on all ranks."""
    part = _shared.get(x.dtype)
    if part is None or x.numel() > len(part) or x.numel() % (8 * dist.get_world_size()):
        dist.all_reduce(x)
        return
    # Each rank adds up its share and writes it to all: the same bits everywhere. Its barriers keep
    # the next sum out until all have read this one.
    place = part[: x.numel()].view(x.shape)
    place.copy_(x)
    torch.ops.symm_mem.two_shot_all_reduce_(place, "sum", _group_name())
    x.copy_(place)


@torch.library.custom_op("batchgen::gather", mutates_args=())
def _gather(x: torch.Tensor) -> torch.Tensor:
    """[...] -> [num_ranks, ...]."""
    out = x.new_empty(dist.get_world_size(), *x.shape)
    dist.all_gather(list(out.unbind()), x.contiguous())
    return out


@_gather.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(dist.get_world_size(), *x.shape)


def all_gather_last(x: torch.Tensor, width: int) -> torch.Tensor:
    """Shares of the last dimension end to end: [..., share] -> [..., width].

    The last rank's share may be narrower than the others'.
    """
    share = -(-width // dist.get_world_size())
    if x.shape[-1] < share:
        x = torch.nn.functional.pad(x, (0, share - x.shape[-1]))
    every: torch.Tensor = _gather(x)  # [num_ranks, ..., share]
    return every.movedim(0, -2).flatten(-2)[..., :width]


def own_share(x: torch.Tensor) -> torch.Tensor:
    """This rank's part of the last dimension, as `all_gather_last` puts them together."""
    share = -(-x.shape[-1] // dist.get_world_size())
    start = dist.get_rank() * share
    return x[..., start : start + share]
