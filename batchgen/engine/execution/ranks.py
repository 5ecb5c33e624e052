"""Eager steps of a model that several ranks share: the leader packs and samples, all run forward.

leader    announce (sizes, over a pipe) | broadcast (one tensor of ints) | forward | sample
follower  take an order                 | broadcast                      | forward
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from batchgen.engine.attention.interface import AttentionMetadata
from batchgen.engine.execution.packing import Batch
from batchgen.engine.execution.step_runner import EagerRunner, LaunchedStep
from batchgen.engine.parallel.group import Group
from batchgen.engine.scheduling.step import StepOutput

__all__ = ["EagerFollower", "EagerLeader", "EagerOrder"]


@dataclass(frozen=True, slots=True)
class EagerOrder:
    """A step's sizes: what a rank must know to take the rest."""

    num_tokens: int
    num_logits: int
    num_seqs: int
    num_columns: int
    """Of the block tables."""
    block_size: int
    max_seqlen_q: int
    max_seqlen_k: int

    @property
    def lengths(self) -> list[int]:
        """Of the parts of a packed step, see `_pack`."""
        tables = self.num_seqs * self.num_columns
        return [self.num_tokens] * 3 + [self.num_logits, self.num_seqs + 1, self.num_seqs, tables]


class EagerLeader(EagerRunner):
    """`EagerRunner`, whose forward the other ranks run as well."""

    def __init__(self, model: Any, group: Group, *sizes: int) -> None:
        super().__init__(model, *sizes)
        self._group = group

    def collect(self, handle: LaunchedStep) -> StepOutput:
        """As of one device; tokens that came after a rank had ended are nobody's."""
        if handle.done is not None:
            self._group.wait(handle.done)
        output = super().collect(handle)
        self._group.check()
        return output

    def _forward(self, batch: Batch) -> torch.Tensor:
        order = _order(batch)
        self._group.announce(order)
        with self._group.together():
            self._group.broadcast(_pack(batch))
            return super()._forward(batch)


class EagerFollower:
    """Runs the forward of each step that the leader announces."""

    def __init__(self, model: Any, group: Group) -> None:
        self._model, self._group = model, group

    @torch.inference_mode()
    def follow(self, order: EagerOrder) -> None:
        """One step."""
        lengths = order.lengths
        packed = torch.empty(sum(lengths), dtype=torch.int64, device=self._model.device)
        self._group.broadcast(packed)
        ids, positions, slots, logits, cu_seqlens, seq_lens, tables = packed.split(lengths)
        metadata = AttentionMetadata(
            cu_seqlens_q=cu_seqlens.int(),
            seq_lens=seq_lens.int(),
            block_tables=tables.int().view(order.num_seqs, order.num_columns),
            slot_mapping=slots,
            block_size=order.block_size,
            num_seqs=order.num_seqs,
            num_tokens=order.num_tokens,
            max_seqlen_q=order.max_seqlen_q,
            max_seqlen_k=order.max_seqlen_k,
        )
        self._model.forward(ids, positions, metadata, logits)


def _order(batch: Batch) -> EagerOrder:
    metadata = batch.metadata
    return EagerOrder(
        num_tokens=metadata.num_tokens,
        num_logits=len(batch.logits_indices),
        num_seqs=metadata.num_seqs,
        num_columns=metadata.block_tables.shape[1],
        block_size=metadata.block_size,
        max_seqlen_q=metadata.max_seqlen_q,
        max_seqlen_k=metadata.max_seqlen_k,
    )


def _pack(batch: Batch) -> torch.Tensor:
    """All of a step in one tensor, int64, in the order of `EagerOrder.lengths`."""
    metadata = batch.metadata
    parts = [
        batch.input_ids,
        batch.positions,
        metadata.slot_mapping,
        batch.logits_indices,
        metadata.cu_seqlens_q,
        metadata.seq_lens,
        metadata.block_tables.reshape(-1),
    ]
    return torch.cat([part.long() for part in parts])
