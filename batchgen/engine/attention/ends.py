"""The tokens whose logits are asked, as a step of their own: rows of one token, none to write."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from batchgen.engine.attention.interface import AttentionMetadata, SharedReads

__all__ = ["Ends", "ends_of"]


@dataclass(frozen=True, slots=True)
class Ends:
    """What comes after all keys and values of a step are written."""

    indices: torch.Tensor  # int64 [num_ends]: places in the step's row
    metadata: AttentionMetadata
    """Of these tokens, each a row that reads the cache of its sequence."""


def ends_of(metadata: AttentionMetadata, indices: torch.Tensor) -> Ends:
    """`indices`, int64 [num_ends]: places of tokens in the step's row.

    Nothing here waits for the device. Where the step has shared reads, the first `num_seqs` indices
    are its sequences' last tokens in their order: sequences keep their numbers.
    """
    device, num_ends = indices.device, len(indices)
    stops = metadata.cu_seqlens_q[1:].long()
    rows = torch.searchsorted(stops, indices, right=True)
    behind = stops[rows] - 1 - indices  # tokens of the same sequence that come later in the step
    shared = metadata.shared
    if shared is not None:
        shared = SharedReads(shared.items, shared.members, shared.rows[rows])
    ends = replace(
        metadata,
        cu_seqlens_q=torch.arange(num_ends + 1, dtype=torch.int32, device=device),
        seq_lens=metadata.seq_lens[rows] - behind.int(),
        block_tables=metadata.block_tables[rows],
        slot_mapping=torch.full_like(indices, -1),
        num_seqs=num_ends,
        num_tokens=num_ends,
        max_seqlen_q=1,
        shared=shared,
        host=None,
    )
    return Ends(indices, ends)
