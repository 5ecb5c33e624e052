"""An engine over a model that several devices share: loaded, proven and sized by all ranks alike.

The leader's engine is an ordinary one. Its runner announces each step to the other ranks, which
have neither requests nor a scheduler: there is nothing that could get out of step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import torch

from batchgen.engine.config import EngineConfig
from batchgen.engine.device import resolve_device
from batchgen.engine.execution.step_runner import StepRunner
from batchgen.engine.model.model import Model
from batchgen.engine.parallel.followers import Followers, Start
from batchgen.engine.parallel.group import Group, join_group, leave_group
from batchgen.engine.parallel.splitting import check_splitting, rank_device
from batchgen.engine.request import Completion
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.factory import load_follower, load_over
from batchgen.errors import BatchgenError

__all__ = ["ParallelEngine", "follow", "load_parallel"]

_abandoned: list[StepRunner] = []
"""Of ranks that lost another one: what a GPU may still read is never freed."""


class ParallelEngine(LLMEngine):
    """The leader's, and with it the other ranks' processes."""

    followers: Followers
    threads_before: int

    def step(self) -> list[Completion]:
        """As of one device. Raises BatchgenError once a rank has ended."""
        self.followers.check()
        try:
            return super().step()
        except Exception as error:
            raise self.followers.explain(error) from error

    def close(self) -> None:
        """End the other ranks as well. Where one was lost, a GPU is waited for by nobody: what it
        runs may be a sum that never ends, and to free what that reads would wait for it too."""
        if self.followers.left_a_gpu_waiting:
            self._in_flight.clear()
            _abandoned.append(self._runner)
        try:
            super().close()
        finally:
            if not self.followers.left_a_gpu_waiting:
                self._runner.release()
            _part(self.followers)
            torch.set_num_threads(self.threads_before)


def load_parallel(config: EngineConfig) -> tuple[Model, LLMEngine]:
    """Start the other ranks, and load with them. Raises what one of them raises: UsageError or
    ModelRefusedError before any row is touched."""
    device = resolve_device(config.device)
    check_splitting(config, device)
    if device.type == "cpu":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this host
    threads_before, size = torch.get_num_threads(), config.tensor_parallel
    num_threads = max(1, threads_before // size)
    others = [str(rank_device(device, rank)) for rank in range(1, size)]
    followers = Followers(config, others, num_threads)
    try:
        torch.set_num_threads(num_threads)
        followers.wait_until_ready()
        join_group(0, size, device, followers.meeting_place)
        group = Group(0, size, device, followers.announce, followers.check)
        model, engine = load_over(replace(config, device=str(device)), group, ParallelEngine)
    except BaseException as error:
        lost = isinstance(error, Exception) and not isinstance(error, BatchgenError)
        reason = followers.explain(error) if lost else error  # type: ignore[arg-type]
        _part(followers, at_once=True)
        torch.set_num_threads(threads_before)
        raise reason from error
    assert isinstance(engine, ParallelEngine)
    engine.followers, engine.threads_before = followers, threads_before
    return model, engine


def _part(followers: Followers, *, at_once: bool = False) -> None:
    followers.close(at_once=at_once)
    if not followers.left_a_gpu_waiting:
        leave_group()


def follow(start: Start, next_order: Callable[[], object]) -> None:
    """A rank's life: load as the leader does, then run what it announces, until it says None."""
    device = torch.device(start.device)
    torch.set_num_threads(start.num_threads)
    join_group(start.rank, start.config.tensor_parallel, device, start.meeting_place)
    group = Group(start.rank, start.config.tensor_parallel, device)
    runner = load_follower(replace(start.config, device=start.device), group)
    while (order := next_order()) is not None:
        runner.follow(order)
