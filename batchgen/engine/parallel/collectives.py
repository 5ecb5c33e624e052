"""What ranks compute together, as operators that a compiled layer and a CUDA graph may hold.

All of them speak over the process's one group. Sums of floats are the same bits on every rank: each
part is added up in one place and sent to all.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

__all__ = ["add_up", "gather_last", "own_share"]


@torch.library.custom_op("batchgen::add_up", mutates_args=("x",))
def add_up(x: torch.Tensor) -> None:
    """Every rank's `x` becomes the sum of all, in place; one layout on all ranks."""
    dist.all_reduce(x)


@torch.library.custom_op("batchgen::gather", mutates_args=())
def _gather(x: torch.Tensor) -> torch.Tensor:
    """[...] -> [num_ranks, ...]."""
    out = x.new_empty(dist.get_world_size(), *x.shape)
    dist.all_gather(list(out.unbind()), x.contiguous())
    return out


@_gather.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(dist.get_world_size(), *x.shape)


def gather_last(x: torch.Tensor, width: int) -> torch.Tensor:
    """Shares of the last dimension end to end: [..., share] -> [..., width].

    The last rank's share may be narrower than the others'.
    """
    share = -(-width // dist.get_world_size())
    if x.shape[-1] < share:
        x = torch.nn.functional.pad(x, (0, share - x.shape[-1]))
    every: torch.Tensor = _gather(x)  # [num_ranks, ..., share]
    return every.movedim(0, -2).flatten(-2)[..., :width]


def own_share(x: torch.Tensor) -> torch.Tensor:
    """This rank's part of the last dimension, as `gather_last` puts them together."""
    share = -(-x.shape[-1] // dist.get_world_size())
    start = dist.get_rank() * share
    return x[..., start : start + share]
