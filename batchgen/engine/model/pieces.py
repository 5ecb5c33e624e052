"""Steps put together by hand, of pieces of sequences: for proofs and for compiling ahead.

Imports torch alone, so that a process that only compiles need not import transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from batchgen.engine.attention.interface import AttentionMetadata

__all__ = ["Piece", "make_metadata"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `start:stop` of one sequence, as one step computes them."""

    block_table: tuple[int, ...]
    start: int
    stop: int


def make_metadata(
    pieces: Sequence[Piece], block_size: int, device: torch.device
) -> AttentionMetadata:
    """The metadata of a step that packs `pieces` in this order."""
    ends = [0]
    slots: list[int] = []
    for piece in pieces:
        ends.append(ends[-1] + piece.stop - piece.start)
        slots += [
            piece.block_table[place // block_size] * block_size + place % block_size
            for place in range(piece.start, piece.stop)
        ]
    width = max(len(piece.block_table) for piece in pieces)
    tables = [list(p.block_table) + [0] * (width - len(p.block_table)) for p in pieces]
    stops = [piece.stop for piece in pieces]
    return AttentionMetadata(
        cu_seqlens_q=torch.tensor(ends, dtype=torch.int32, device=device),
        seq_lens=torch.tensor(stops, dtype=torch.int32, device=device),
        block_tables=torch.tensor(tables, dtype=torch.int32, device=device),
        slot_mapping=torch.tensor(slots, dtype=torch.int64, device=device),
        block_size=block_size,
        num_seqs=len(pieces),
        num_tokens=ends[-1],
        max_seqlen_q=max(piece.stop - piece.start for piece in pieces),
        max_seqlen_k=max(stops),
    )
