"""The ranks of one model as each of them sees them: who it is, and what it shares with the others.

Rank 0, the leader, has the scheduler, the sampler and all requests; the others have weights and a
KV cache alone. The leader says over a pipe that a step comes (`announce`), and the step itself goes
over the process group, on the devices (`broadcast`): so the others compute what the leader does,
and cannot decide anything else. A pipe may be silent for hours; a collective may not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.distributed.distributed_c10d import _abort_process_group

from batchgen.causes import first_line
from batchgen.engine.parallel.collectives import forget_shared_memory, share_memory
from batchgen.errors import BatchgenError

__all__ = ["Group", "StepLostError", "join_group", "leave_group"]

_TIMEOUT = timedelta(minutes=30)
"""Of one collective: ranks read weights, and compile, at different speeds."""
_FAREWELL_S = 10.0
_LOOK_EVERY_S = 1e-4


class StepLostError(BatchgenError):
    """A step ended on one rank, and the others may be somewhere in it: nothing goes on."""


@dataclass(frozen=True, slots=True)
class Group:
    """`announce` and `check` are the leader's; `check` raises once a rank has ended."""

    rank: int
    size: int
    device: torch.device
    announce: Callable[[object], None] = lambda order: None
    check: Callable[[], None] = lambda: None

    @property
    def leads(self) -> bool:
        """Whether this rank decides."""
        return self.rank == 0

    def broadcast(self, x: torch.Tensor) -> None:
        """`x` becomes the leader's, in place."""
        dist.broadcast(x, src=0)

    def smallest(self, number: int) -> int:
        """The least of all ranks' numbers."""
        least = torch.tensor(number, device=self.device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return int(least)

    def wait(self, done: torch.cuda.Event) -> None:
        """Until the device has come there. Raises what `check` does: a sum over GPUs that one of
        them has left never ends, and aborting NCCL does not end one over shared memory."""
        while not done.query():
            self.check()
            time.sleep(_LOOK_EVERY_S)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A part of a step that all ranks run: where it fails on this one, it is lost on all."""
        try:
            yield
        except BatchgenError:
            raise
        except Exception as error:
            raise StepLostError(
                f"a step failed on one of the {self.size} devices that share the model: "
                f"{type(error).__name__}: {first_line(error)}",
                "finished rows are kept: run again to continue; if it ran out of memory, with a "
                "lower --max-num-batched-tokens or --gpu-memory-utilization",
            ) from error


def join_group(rank: int, size: int, device: torch.device, meeting_place: str) -> None:
    """Meet the others at a file that only they know. Returns once all are there."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        device = torch.device("cuda", device.index or 0)  # `cuda` alone names none
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=FileStore(meeting_place, size),
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
        device_id=device if on_gpu else None,
    )
    if on_gpu:
        share_memory(device)


def leave_group() -> None:
    """So that this process can join another. Waits for no other rank: NCCL's own farewell would,
    and for every graph that holds a collective; they may be gone."""
    if not dist.is_initialized():
        return
    if dist.get_backend() != "nccl":
        dist.destroy_process_group()
        return
    forget_shared_memory()
    leaving = threading.Thread(target=_abort_process_group, daemon=True)
    leaving.start()
    leaving.join(_FAREWELL_S)
