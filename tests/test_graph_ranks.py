"""The GPU path over several ranks: whatever a leader's graphs read reaches those of a follower.

Both run on the host, names of CUDA replaced (`test_graph_faults`), and what goes over the process
group is handed over here.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from fake_model import VOCAB_SIZE
from test_graph_faults import (
    BLOCK_SIZE,
    BUDGET,
    MAX_LEN,
    MAX_SEQS,
    HostGraphRunner,
    PaddedModel,
    no_cuda,
    ready,
    run,
    unbroken,
)

from batchgen.engine.cuda import ranks
from batchgen.engine.cuda.ranks import GraphFollower, GraphLeader
from batchgen.engine.parallel.group import Group, StepLostError
from batchgen.engine.request import Completion
from batchgen.engine.run import tensor_parallel
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.tensor_parallel import ParallelEngine
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.errors import BatchgenError
from batchgen.job.text.byte_codec import ByteCodec
from batchgen.job.text.requests import Requests

__all__ = ["no_cuda"]  # a fixture for all tests here


class Handed(Group):
    """A group in one process: what the leader sends waits here until the follower takes it."""

    sent: list[torch.Tensor]

    def broadcast(self, x: torch.Tensor) -> None:
        """The leader's is kept, the follower's becomes it."""
        if self.leads:
            self.sent.append(x.clone())
        else:
            x.copy_(self.sent.pop(0))


class HostLeader(HostGraphRunner, GraphLeader):
    """Both, on the host."""


class HostFollower(HostGraphRunner, GraphFollower):
    """Both, on the host."""


class TwoRanks(LLMEngine):
    """Runs the follower's part after each step."""

    catch_up: Callable[[], None]

    def step(self) -> list[Completion]:
        """The leader's, then all that the follower was told."""
        found = super().step()
        self.catch_up()
        return found


def two_ranks(*models: PaddedModel) -> tuple[TwoRanks, Any, Any]:
    scheduler = Scheduler(BlockManager(600, BLOCK_SIZE), MAX_SEQS, BUDGET)
    sizes = {"num_slots": scheduler.num_slots, "max_num_seqs": MAX_SEQS, "max_num_tokens": BUDGET}
    sizes |= {"max_model_len": MAX_LEN, "block_size": BLOCK_SIZE}
    orders: list[Any] = []
    sent: list[torch.Tensor] = []
    runners = []
    for rank, (model, kind) in enumerate(zip(models, (HostLeader, HostFollower), strict=True)):
        model.allocate_cache(600, BLOCK_SIZE)
        group = Handed(rank, 2, torch.device("cpu"), orders.append)
        object.__setattr__(group, "sent", sent)
        runners.append(kind(model, group, **sizes))  # type: ignore[abstract]
    leader, follower = runners
    engine = TwoRanks(scheduler, leader, max_model_len=MAX_LEN, vocab_size=VOCAB_SIZE, depth=1)

    def catch_up() -> None:
        while orders:
            follower.follow(orders.pop(0))

    engine.catch_up = catch_up
    return engine, leader, follower


@contextlib.contextmanager
def _no_waits() -> Iterator[list[str]]:
    yield []


def test_a_follower_writes_the_leaders_cache_and_captures_its_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranks, "notice_waiting", _no_waits)
    ours, theirs = PaddedModel(), PaddedModel()
    engine, leader, follower = two_ranks(ours, theirs)
    ended = run(engine, ready(Requests(ByteCodec())))
    assert {i: list(c.token_ids) for i, c in ended.items()} == unbroken()
    assert torch.equal(ours.cache, theirs.cache)
    assert ours.num_calls == theirs.num_calls
    assert set(follower._captures.graphs) == set(leader._captures.graphs) != set()


def test_a_model_that_waits_for_the_device_runs_without_graphs_on_all_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.contextmanager
    def waits() -> Iterator[list[str]]:
        yield ["called a synchronizing CUDA operation"]

    monkeypatch.setattr(ranks, "notice_waiting", waits)
    engine, leader, follower = two_ranks(PaddedModel(), PaddedModel())
    ended = run(engine, ready(Requests(ByteCodec())))
    assert {i: list(c.token_ids) for i, c in ended.items()} == unbroken()
    assert not leader._captures.graphs
    assert not follower._captures.graphs


class NeverDone:
    """An event behind a sum that another GPU has left."""

    def query(self) -> bool:
        """Never."""
        return False

    def synchronize(self) -> None:
        """What must not be called."""
        pytest.fail("waits for what never ends")


def test_a_sum_that_a_lost_rank_left_is_waited_for_no_longer_and_nothing_frees_what_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = itertools.count()

    def check() -> None:
        if next(looks) >= 3:
            raise BatchgenError("the process of rank 1 ended")

    group = Group(0, 2, torch.device("cpu"), check=check)
    event: Any = NeverDone()
    with pytest.raises(BatchgenError, match="rank 1 ended"):
        group.wait(event)

    engine = ParallelEngine.__new__(ParallelEngine)
    plain, leader, _ = two_ranks(PaddedModel(), PaddedModel())
    vars(engine).update(vars(plain))
    lost: Any = SimpleNamespace(left_a_gpu_waiting=True, close=lambda *, at_once: None)
    engine.followers, engine.threads_before = lost, torch.get_num_threads()
    kept: list[Any] = []
    monkeypatch.setattr(tensor_parallel, "_abandoned", kept)
    monkeypatch.setattr(tensor_parallel, "leave_group", lambda: pytest.fail("frees shared memory"))
    monkeypatch.setattr(leader, "collect", lambda handle: pytest.fail("waits for a step"))
    monkeypatch.setattr(leader, "release", lambda: pytest.fail("frees graphs"))
    engine._in_flight.append((cast(Any, None), None))
    engine.close()
    assert kept == [leader]


def test_a_step_that_fails_on_the_leader_is_lost_and_no_row_is_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranks, "notice_waiting", _no_waits)
    engine, _, _ = two_ranks(PaddedModel(failing=(3,)), PaddedModel())
    with pytest.raises(StepLostError, match="2 devices that share the model: OutOfMemoryError"):
        run(engine, ready(Requests(ByteCodec())))
