"""Runs a step on the device: pack, forward, sample.

`execute` launches and returns without waiting for the tokens; `collect` waits. `EagerRunner` is the
plain one. `cuda.graph_runner`, with CUDA graphs and tables on the device, and `ranks`, which send
the step to the other ranks of a tensor-parallel model first, implement the same two calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec
from batchgen.engine.device import to_host
from batchgen.engine.execution.packing import Batch, BatchBuilder
from batchgen.engine.memory import give_back_freed, release_memory
from batchgen.engine.parallel.group import Group
from batchgen.engine.sampling.no_choice import failures_of
from batchgen.engine.sampling.sampler import TopTokens, sample
from batchgen.engine.sampling.scores import Scores, score
from batchgen.engine.sampling.table import SamplingTable
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput
from batchgen.engine.weights import Weights

__all__ = ["EagerRunner", "LaunchedStep", "ServedModel", "StepRunner", "begin_copies"]


class ServedModel(Protocol):
    """What the engine asks of a model; `model.Model` is the real one."""

    specs: tuple[AttentionSpec, ...]
    vocab_size: int
    max_position: int
    dtype: torch.dtype
    device: torch.device
    max_num_tokens: int | None
    input_vocab_size: int | None
    group: Group | None
    adapters: Any
    weights: Weights | None

    def bytes_per_block(self, block_size: int) -> int:
        """Memory of one KV block over all attention calls, in bytes."""

    def allocate_cache(self, num_blocks: int, block_size: int) -> None:
        """Give every attention call its empty cache."""

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Of every cache, from the first block of each pair to the second."""

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        metadata: AttentionMetadata,
        logits_indices: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [num_logits, vocab_size]."""


class StepRunner(Protocol):
    """Steps are executed, and collected, in the order of scheduling."""

    def execute(self, step: ScheduledStep) -> Any:
        """Launch a step; the handle is for `collect`."""

    def collect(self, handle: Any) -> StepOutput:
        """Wait for a launched step's tokens."""

    def release(self) -> None:
        """Called once, at the end: drop CUDA graphs, whose collectives the ranks' communicator
        waits for, or the model, whose memory the system is to have back."""


def begin_copies(model: ServedModel, step: ScheduledStep) -> None:
    """Copy the blocks that a step begins with copies of, before it is launched; not again."""
    if step.block_copies:
        model.copy_blocks([(copy.source, copy.target) for copy in step.block_copies])
        step.block_copies.clear()


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """Results on their way to the host."""

    step: ScheduledStep
    tokens: torch.Tensor  # int64 [num_sampled], host memory
    usable: torch.Tensor  # bool [num_sampled], host memory
    logprobs: torch.Tensor | None  # float32 [num_sampled], host memory
    top: TopTokens | None  # host memory
    scores: Scores | None
    done: torch.cuda.Event | None


class EagerRunner:
    """One operator after the other, on any device."""

    LOGITS_OF_EVERY_ROW: ClassVar = False
    """A step's logits are those of its sampled rows."""

    def __init__(
        self, model: ServedModel, num_slots: int, max_model_len: int, block_size: int
    ) -> None:
        self._model = model
        self._adapters = model.adapters
        device = model.device
        max_blocks = -(-max_model_len // block_size)
        self._builder = BatchBuilder(num_slots, max_blocks, block_size, device)
        self._sampling = SamplingTable(num_slots, model.vocab_size, device)
        self._last_tokens = torch.zeros(num_slots, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def execute(self, step: ScheduledStep) -> LaunchedStep:
        """Pack, run the model, sample; on CUDA nothing here waits for the device."""
        begin_copies(self._model, step)
        batch = self._builder.build(step)
        self._sampling.admit(step)
        self._sampling.begin_rules(step)
        if batch.pending is not None and batch.pending_slots is not None:
            batch.input_ids[batch.pending] = self._last_tokens[batch.pending_slots]
        if self._adapters is not None:
            self._adapters.begin(step, self._model.device)
        logits = self._forward(batch)
        num_sampled = len(step.sampled)
        scores = score(logits[num_sampled:], step) if step.scored else None
        sampled = sample(logits[:num_sampled], self._sampling.gather(step))
        self._last_tokens[batch.sampled_slots] = sampled.tokens
        logprobs = None if sampled.logprobs is None else to_host(sampled.logprobs)
        tokens, usable = to_host(sampled.tokens), to_host(sampled.usable)
        top = self._top(sampled.top)
        return LaunchedStep(step, tokens, usable, logprobs, top, scores, self._event())

    def collect(self, handle: LaunchedStep) -> StepOutput:
        """Tokens of a launched step as host numbers."""
        if handle.done is not None:
            handle.done.synchronize()
        output = StepOutput(handle.tokens.tolist())
        if handle.logprobs is not None:
            output.logprobs = handle.logprobs.tolist()
        if handle.top is not None:
            output.top_logprobs = handle.top.to_lists()
        if handle.scores is not None:
            output.scores = handle.scores.to_lists()
        if not handle.usable.all():
            unusable = (~handle.usable).nonzero()[:, 0].tolist()
            output.failures = failures_of(handle.step, unusable, self._model.vocab_size)
        return output

    def release(self) -> None:
        """Let go of the model: its memory is for what comes after, the output's merge."""
        if vars(self).pop("_model", None) is not None:
            release_memory()  # layers and what calls them hold each other
            give_back_freed()

    def _forward(self, batch: Batch) -> torch.Tensor:
        return self._model.forward(
            batch.input_ids, batch.positions, batch.metadata, batch.logits_indices
        )

    def _top(self, top: TopTokens | None) -> TopTokens | None:
        if top is None:
            return None
        return TopTokens(to_host(top.ids), to_host(top.logprobs), top.counts)

    def _event(self) -> torch.cuda.Event | None:
        if self._model.device.type != "cuda":
            return None
        event = torch.cuda.Event()
        event.record()
        return event
