"""Graphs over several GPUs: every rank replays its own, and their collectives meet.

    leader    announce (over a pipe) | copy in | replay: broadcast, forward, choose | copy out
    follower  take an order          |           replay: broadcast, forward

What a graph reads goes to the other ranks within it: the flat inputs, and the token ids once those
that the last step sampled stand in them. So no rank waits for a token on its host.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from batchgen.engine.cuda.buckets import Bucket
from batchgen.engine.cuda.graph_inputs import Sections
from batchgen.engine.cuda.graph_runner import GraphRunner
from batchgen.engine.cuda.host_syncs import notice_waiting
from batchgen.engine.device import sent
from batchgen.engine.parallel.group import Group
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput

__all__ = ["GraphFollower", "GraphLeader", "GraphOrder"]

_log = logging.getLogger(__name__)


class GraphOrder(NamedTuple):
    """What a step is on the host. `more`: table entries that have no room in its inputs."""

    bucket: Bucket
    choice: Any
    more: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None
    places: npt.NDArray[np.int64] | None
    """Scored places of the packed row."""


class _Rank(GraphRunner):
    def __init__(self, model: Any, group: Group, **sizes: Any) -> None:
        super().__init__(model, **sizes)
        self._group = group

    def _share(self, x: torch.Tensor) -> torch.Tensor:
        self._group.broadcast(x)
        return x

    def _rehearse(self, bucket: Bucket, choice: Any) -> None:
        """A step is not begun twice here, as the other ranks are in it too: it is watched."""
        with notice_waiting() as waits:
            self._compute(bucket, choice)
        if not waits:
            self._captures.note_rehearsed(bucket, choice)
        elif (bucket, choice) in self._waited:
            _log.warning("steps run without CUDA graphs: the model waits for the device")
            self._may_capture = False
        self._waited.add((bucket, choice))


class GraphLeader(_Rank):
    """`GraphRunner`, whose steps the other ranks run as well."""

    def execute(self, step: ScheduledStep) -> Any:
        """As on one GPU; where it fails here, it is lost on all ranks."""
        with self._group.together():
            return super().execute(step)

    def collect(self, handle: Any) -> StepOutput:
        """As on one GPU; tokens that came after a rank had ended are nobody's."""
        self._group.wait(handle.transfer.done)
        output = super().collect(handle)
        self._group.check()
        return output

    def _announce(self, *order: Any) -> None:
        self._group.announce(GraphOrder(*order))


class GraphFollower(_Rank):
    """Runs the forward of each step that the leader announces."""

    @torch.inference_mode()
    def follow(self, order: GraphOrder) -> None:
        """Launch one step. The leader waits for its own, so this never runs far ahead."""
        transfer = self._next_transfer()
        if order.more is not None:
            transfer.more_entries.write(self._table, *order.more)
        if order.places is None:
            self._run(order.bucket, order.choice)
        else:
            scored = sent(order.places, self._model.device)
            self._compute(order.bucket, order.choice, scored)

    def _choose(
        self, logits: torch.Tensor, inputs: Sections, choice: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The leader's to do: these are never read."""
        tokens = self._last_tokens.new_zeros(len(logits))
        return tokens, tokens == 0
