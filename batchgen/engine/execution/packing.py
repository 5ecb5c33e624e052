"""From a `ScheduledStep` to the packed tensors of one ragged row: array operations on the host.

The block table is kept between steps, a row for each slot; a step carries only what was appended.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from batchgen.engine.attention.interface import AttentionMetadata
from batchgen.engine.device import to_device
from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["PENDING_TOKEN", "Batch", "BatchBuilder", "scored_indices"]

PENDING_TOKEN = -1
"""In `Batch.input_ids`: the token that the slot's previous step sampled, unknown to the host."""

_Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step, packed; tensors lie on the model's device."""

    input_ids: torch.Tensor  # int64 [num_tokens]
    positions: torch.Tensor  # int64 [num_tokens]
    logits_indices: torch.Tensor
    """int64 [num_sampled + num_scored]: packed indices of sampling rows' ends, then of scored
    positions."""
    metadata: AttentionMetadata
    sampled_slots: torch.Tensor  # int64 [num_sampled]
    pending: torch.Tensor | None  # int64 [num_pending]: packed indices that hold PENDING_TOKEN
    pending_slots: torch.Tensor | None  # int64 [num_pending]: whose last token belongs there


class BatchBuilder:
    """Keeps the host's block table; `build` must see every step, in order."""

    def __init__(
        self, num_slots: int, max_blocks: int, block_size: int, device: torch.device
    ) -> None:
        self._block_table = np.zeros((num_slots, max_blocks), dtype=np.int32)
        self._block_size = block_size
        self._to_device = partial(to_device, device=device)

    def build(self, step: ScheduledStep) -> Batch:
        """Pack a step of at least one row."""
        for slot, first, blocks in step.block_updates:
            self._block_table[slot, first : first + len(blocks)] = blocks
        num_tokens = np.array(step.num_tokens, dtype=np.int64)
        starts = np.array(step.starts, dtype=np.int64)
        slots = np.array(step.slots, dtype=np.int64)
        cu_seqlens = np.zeros(len(step) + 1, dtype=np.int64)
        np.cumsum(num_tokens, out=cu_seqlens[1:])
        rows = np.repeat(np.arange(len(step)), num_tokens)  # [num_tokens]: row of each token
        positions = np.arange(step.total_tokens) + (starts - cu_seqlens[:-1])[rows]
        input_ids = self._input_ids(step)
        pending = np.flatnonzero(input_ids == PENDING_TOKEN)
        sampled = np.array(step.sampled, dtype=np.int64)
        logits_indices = np.concatenate([cu_seqlens[1:][sampled] - 1, scored_indices(step)])
        return Batch(
            input_ids=self._to_device(input_ids),
            positions=self._to_device(positions),
            logits_indices=self._to_device(logits_indices),
            metadata=self._metadata(positions, slots, rows, cu_seqlens, starts + num_tokens),
            sampled_slots=self._to_device(slots[sampled]),
            pending=self._to_device(pending) if len(pending) else None,
            pending_slots=self._to_device(slots[rows[pending]]) if len(pending) else None,
        )

    def _input_ids(self, step: ScheduledStep) -> _Int:
        packed = array("i")
        for sequence, start, num_tokens in zip(
            step.sequences, step.starts, step.num_tokens, strict=True
        ):
            known = sequence.token_ids
            if num_tokens == 1:
                packed.append(known[start] if start < len(known) else PENDING_TOKEN)
            else:  # a pending token is always scheduled alone
                packed += known[start : start + num_tokens]
        return np.frombuffer(packed, dtype=np.int32).astype(np.int64)

    def _metadata(
        self, positions: _Int, slots: _Int, rows: _Int, cu_seqlens: _Int, seq_lens: _Int
    ) -> AttentionMetadata:
        blocks, offsets = np.divmod(positions, self._block_size)
        slot_mapping = self._block_table[slots[rows], blocks].astype(np.int64)
        slot_mapping *= self._block_size
        slot_mapping += offsets
        max_seqlen_k = int(seq_lens.max())
        num_columns = -(-max_seqlen_k // self._block_size)
        return AttentionMetadata(
            cu_seqlens_q=self._to_device(cu_seqlens.astype(np.int32)),
            seq_lens=self._to_device(seq_lens.astype(np.int32)),
            block_tables=self._to_device(self._block_table[slots, :num_columns]),
            slot_mapping=self._to_device(slot_mapping),
            block_size=self._block_size,
            num_seqs=len(seq_lens),
            num_tokens=len(positions),
            max_seqlen_q=int(np.diff(cu_seqlens).max()),
            max_seqlen_k=max_seqlen_k,
        )


def scored_indices(step: ScheduledStep) -> _Int:
    """Packed index of each scored position, row after row: int64 [num_scored]."""
    if not step.scored:
        return np.empty(0, dtype=np.int64)
    first = np.cumsum([0, *step.num_tokens[:-1]]) - step.starts
    rows, begins, ends = np.array(step.scored, dtype=np.int64).T
    lengths = ends - begins
    before = np.cumsum(lengths) - lengths
    return np.repeat(first[rows] + begins - before, lengths) + np.arange(lengths.sum())
