"""Runs steps on CUDA as graphs: one copy in, one replay, one copy out.

    host    pack n+1 | copy in | replay | copy out | event | update n-1 | schedule n+2 ...
    device  ... step n ........ | step n+1 .................

Tokens that a step samples stay on the device, where the next step reads them, so a step is launched
before the host knows what the one before it sampled. `sampling/triton` chooses them; steps
whose rows read keys together have graphs of their own, so that others do not pay for it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from batchgen.causes import first_line
from batchgen.engine.attention.interface import AttentionMetadata
from batchgen.engine.cuda.buckets import Bucket, Buckets
from batchgen.engine.cuda.captures import DRAWN, GREEDY, MIXED, CaptureCosts, Captures, Choice
from batchgen.engine.cuda.graph_inputs import Sections, StepPacker, section_lengths
from batchgen.engine.cuda.host_syncs import WaitsForDeviceError, forbid_waiting
from batchgen.engine.cuda.recorder import Recorder
from batchgen.engine.cuda.shared_reads import sharing_shape_of
from batchgen.engine.cuda.transfers import Transfer, make_transfer
from batchgen.engine.device import sent
from batchgen.engine.execution.packing import scored_indices
from batchgen.engine.execution.step_runner import ServedModel, begin_copies
from batchgen.engine.failures import is_out_of_memory, without_frames
from batchgen.engine.memory import release_memory
from batchgen.engine.sampling.batch import HostDraws
from batchgen.engine.sampling.no_choice import failures_of
from batchgen.engine.sampling.scores import Scores, score
from batchgen.engine.sampling.table import SamplingTable
from batchgen.engine.sampling.triton.choose_kernel import greedy_tokens, sampled_tokens
from batchgen.engine.sampling.triton.sampler import DeviceSampler, Reported
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput
from batchgen.startup import timeline

__all__ = ["GraphRunner"]

logger = logging.getLogger(__name__)

_RING = 3
"""Steps whose buffers are in use: one being packed, one running, one being collected."""


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step on the device; the tokens of its sampled rows come through `transfer`."""

    transfer: Transfer
    step: ScheduledStep
    reported: Reported | None
    scores: Scores | None
    shared_read_tokens: int


class GraphRunner:
    """Implements `StepRunner` for CUDA. `max_num_tokens` and `max_num_seqs` bound a step."""

    LOGITS_OF_EVERY_ROW: ClassVar = True
    """A step's logits are those of all its rows, sampled or not, and of the padding."""
    COUNTS_TOKENS: ClassVar = True
    """Penalties know pending tokens too."""

    def __init__(
        self,
        model: ServedModel,
        *,
        num_slots: int,
        max_num_seqs: int,
        max_num_tokens: int,
        max_model_len: int,
        block_size: int,
        capture: bool = True,
        share_reads: bool = True,
        large_model: bool = False,
        steady: bool = False,
        costs: CaptureCosts | None = None,
    ) -> None:
        device, max_blocks = model.device, -(-max_model_len // block_size)
        self._model, self._adapters = model, getattr(model, "adapters", None)
        self._block_size, self._max_model_len = block_size, max_model_len
        self._buckets = Buckets(max_num_tokens, max_num_seqs, large_model=large_model)
        self._packer = StepPacker(num_slots, max_blocks, block_size, self._adapters)
        self._sampling = SamplingTable(num_slots, model.vocab_size, device)
        self._sharing = sharing_shape_of(model, block_size) if share_reads else None
        size = sum(section_lengths(self._buckets.largest._replace(shares=True), block_size))
        seqs = self._buckets.largest.num_seqs
        self._inputs = torch.zeros(size, dtype=torch.int32, device=device)
        self._table = torch.zeros(num_slots + 1, max_blocks, dtype=torch.int32, device=device)
        self._last_tokens = torch.zeros(num_slots + 1, dtype=torch.int64, device=device)
        self._tokens = torch.zeros(seqs, dtype=torch.int32, device=device)
        self._sampler = DeviceSampler(num_slots, seqs, model.vocab_size, device)
        self._ring = [make_transfer(size, seqs) for _ in range(_RING)]
        self._num_steps = 0
        self._captures = Captures(costs)
        self._waited: set[tuple[Bucket, Choice]] = set()
        self._recorder = Recorder(device)
        self._may_capture = capture
        self._draws_plainly = not steady  # that cuts a row's sums by the number of rows

    @torch.inference_mode()
    def execute(self, step: ScheduledStep) -> _Launched:
        """Launch a step; nothing here waits for the device."""
        begin_copies(self._model, step)
        transfer = self._next_transfer()
        choice, draws = self._admit(step)
        bucket = self._buckets.find(step.total_tokens, len(step))
        shared = self._packer.plan_shared(step, self._sharing)
        bucket = bucket._replace(shares=shared is not None)
        bucket = self._captures.bucket_for(bucket, choice)
        sections = Sections.of(transfer.inputs, bucket, self._block_size)
        more = self._packer.pack(step, sections)
        if more is not None:
            transfer.more_entries.write(self._table, *more)
        if shared is not None:
            self._packer.pack_shared(shared, sections)
        if draws is not None:
            self._packer.pack_draws(step, draws, sections)
        elif choice.kind == MIXED:
            self._packer.pack_positions(step, sections)
        places = scored_indices(step) if step.scored else None
        self._announce(bucket, choice, more, places)
        size = sum(section_lengths(bucket, self._block_size))
        self._inputs[:size].copy_(transfer.inputs[:size], non_blocking=True)
        scores = None
        if places is None:
            self._run(bucket, choice)
        else:  # as many logits as there happen to be: it is no step to capture
            scored = sent(places, self._model.device)
            scores = score(self._compute(bucket, choice, scored), step)
        reported = self._sampler.report(step) if choice.kind == MIXED else None
        transfer.tokens[: len(step)].copy_(self._tokens[: len(step)], non_blocking=True)
        transfer.done.record()
        return _Launched(transfer, step, reported, scores, shared.saved if shared else 0)

    def collect(self, handle: _Launched) -> StepOutput:
        """Wait for a launched step's tokens; -1 stands for a row without one."""
        handle.transfer.done.synchronize()
        rows = handle.step.sampled
        tokens: list[int] = handle.transfer.tokens[rows].tolist()
        output = StepOutput(tokens, shared_read_tokens=handle.shared_read_tokens)
        if handle.reported is not None:
            output.logprobs = handle.reported.logprobs[rows].tolist()
            output.top_logprobs = handle.reported.top_lists(rows)
        if handle.scores is not None:
            output.scores = handle.scores.to_lists()
        if -1 in tokens:
            missing = [j for j, token in enumerate(tokens) if token < 0]
            output.failures = failures_of(handle.step, missing, self._model.vocab_size)
        return output

    def release(self) -> None:
        """Drop the graphs: the communicator of their collectives waits for their end."""
        self._captures = Captures()

    def _admit(self, step: ScheduledStep) -> tuple[Choice, HostDraws | None]:
        """Take over the sampling of new rows; how this step's tokens are chosen."""
        self._sampling.admit(step)
        self._sampler.admit(step)
        if self._sampling.is_plain(step):
            return GREEDY, None
        draws = self._sampling.host_draws(step) if self._draws_plainly else None
        if draws is not None:
            return DRAWN, draws
        self._sampler.prepare(step)
        return Choice(MIXED, self._sampler.key), None

    def _run(self, bucket: Bucket, choice: Choice) -> None:
        graph = self._captures.graphs.get((bucket, choice))
        if graph is None and self._may_capture and self._captures.is_due(bucket, choice):
            with timeline.span("capture"):
                graph = self._capture(bucket, choice)
        if graph is not None:
            graph.replay()
        elif self._may_capture:
            self._rehearse(bucket, choice)
        else:
            self._compute(bucket, choice)

    def _rehearse(self, bucket: Bucket, choice: Choice) -> None:
        """Run a step whose bucket may be captured when it comes again. One that waits for the
        device is run again as it is: nothing of a step counts before its end.

        To find out by capturing would leave torch's allocator within the capture (until 2.12). Some
        modules wait once, for what they build at their first call; who waits twice always will.
        """
        try:
            with forbid_waiting():
                self._compute(bucket, choice)
            self._captures.note_rehearsed(bucket, choice)
        except WaitsForDeviceError:
            if (bucket, choice) in self._waited:
                logger.warning("steps run without CUDA graphs: the model waits for the device")
                self._may_capture = False
            self._waited.add((bucket, choice))
            self._compute(bucket, choice)

    def _next_transfer(self) -> Transfer:
        self._num_steps += 1
        return self._ring[self._num_steps % _RING]

    def _announce(self, *order: Any) -> None:
        """Other ranks are told here that a step comes (`ranks`)."""

    def _share(self, x: torch.Tensor) -> torch.Tensor:
        """Other ranks get it here."""
        return x

    def _compute(
        self, bucket: Bucket, choice: Choice, scored: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The whole step on the device: what is captured. Returns logits of the `scored` places."""
        size = sum(section_lengths(bucket, self._block_size))
        inputs = Sections.of(self._share(self._inputs[:size]), bucket, self._block_size)
        self._table.view(-1).index_copy_(0, inputs.table_index.long(), inputs.table_value)
        ids = inputs.input_ids.long()
        # Decided on the device: the host packs this step before it knows what the last one sampled.
        ids = self._share(torch.where(ids < 0, self._last_tokens[(-1 - ids).clamp_min(0)], ids))
        places = inputs.logits_indices.long()
        if self._adapters is not None:
            self._adapters.route(inputs.adapters, inputs.cu_seqlens_q[1:], bucket.num_tokens)
        logits = self._model.forward(
            ids,
            inputs.positions.long(),
            self._metadata(bucket, inputs),
            places if scored is None else torch.cat([places, scored]),
        )  # [num_seqs + num_scored, vocab_size]
        tokens, usable = self._choose(logits[: len(places)], inputs, choice)
        self._last_tokens.index_copy_(0, inputs.token_slots.long(), tokens)
        self._tokens[: bucket.num_seqs].copy_(torch.where(usable, tokens, -1))
        return logits[len(places) :]

    def _choose(
        self, logits: torch.Tensor, inputs: Sections, choice: Choice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [num_seqs], and whether each can be trusted."""
        if choice.kind == MIXED:
            return self._sampler.choose(logits, inputs.token_slots, inputs.output_positions)
        if choice is GREEDY:
            return greedy_tokens(logits)
        temperature = inputs.temperature.view(torch.float32)
        keys = inputs.keys.view(torch.int64)
        return sampled_tokens(logits, temperature, keys, inputs.output_positions.long())

    def _metadata(self, bucket: Bucket, inputs: Sections) -> AttentionMetadata:
        return AttentionMetadata(
            cu_seqlens_q=inputs.cu_seqlens_q,
            seq_lens=inputs.seq_lens,
            block_tables=self._table[inputs.slots],
            slot_mapping=inputs.slot_mapping,
            block_size=self._block_size,
            num_seqs=bucket.num_seqs,
            num_tokens=bucket.num_tokens,
            max_seqlen_q=1 if bucket.is_decode else bucket.num_tokens,
            # The longest there may be: a graph keeps the number for all steps to come.
            max_seqlen_k=self._max_model_len,
            shared=inputs.shared_reads() if bucket.shares else None,
        )

    def _capture(self, bucket: Bucket, choice: Choice) -> torch.cuda.CUDAGraph | None:
        """Record the bucket's graph, not run by that; None where it cannot be."""
        try:
            graph = self._record(bucket, choice)
        except RuntimeError as error:
            failure = without_frames(error)
        else:
            self._captures.graphs[bucket, choice] = graph
            return graph
        self._go_without(bucket, choice, failure)
        return None

    def _record(self, bucket: Bucket, choice: Choice) -> torch.cuda.CUDAGraph:
        rehearsed = (bucket, choice) in self._captures.rehearsed
        return self._recorder.record(lambda: self._compute(bucket, choice), rehearsed=rehearsed)

    def _go_without(self, bucket: Bucket, choice: Choice, failure: Exception) -> None:
        """A graph that memory has no room for is one bucket's loss: smaller ones may still fit."""
        said = first_line(failure)
        if not is_out_of_memory(failure):
            if (bucket, choice) not in self._captures.rehearsed:
                self._captures.note_unrehearsed(bucket, choice)
                return
            logger.warning("steps run without CUDA graphs: capturing %s failed: %s", bucket, said)
            self._may_capture = False
            return
        size = f"{bucket.num_tokens} tokens in {bucket.num_seqs} rows"
        logger.warning("steps of up to %s get no CUDA graph, for want of memory: %s", size, said)
        self._captures.refused.add((bucket, choice))
        release_memory()
        if not self._captures.graphs:
            self._recorder.renew()
