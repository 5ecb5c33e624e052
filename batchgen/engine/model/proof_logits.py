"""What a model says of the proof's two sequences: by its own forward, and step by step.

The steps pack, cut and decode them through the cache; how far the logits of both are apart is told
row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from batchgen.engine.attention.interface import AttentionMetadata
from batchgen.engine.config import PROOF_BLOCK_SIZE
from batchgen.engine.model.binding import use_attention
from batchgen.engine.model.discovery import clone_module
from batchgen.engine.model.model import Model
from batchgen.engine.model.own_cache import cache_name, returned_cache
from batchgen.engine.model.pieces import Piece, make_metadata

__all__ = [
    "ENDS",
    "LENGTHS",
    "STEPS",
    "WHOLE",
    "compare",
    "each_logits",
    "logits_at",
    "own_logits",
    "relative_errors",
    "worst_error",
]

ProofStep = Sequence[tuple[int, int, int]]
LENGTHS = (22, 10)
STEPS = (
    ((0, 0, 7), (1, 0, 2)),
    ((1, 2, 8), (0, 7, 20)),
    ((0, 20, 21), (1, 8, 9)),
    ((0, 21, 22), (1, 9, 10)),
)
"""Per step, the pieces it packs: (sequence, first token, end)."""
WHOLE = (((0, 0, 22), (1, 0, 10)),)
_TABLES = ((3, 0), (2, 1))
"""Blocks of each sequence."""
ENDS = tuple(
    tuple(sorted({stop - 1 for step in STEPS for seq, _, stop in step if seq == sequence}))
    for sequence in range(len(LENGTHS))
)
"""Per sequence, the tokens that end a piece. Theirs are the logits that are compared, each of which
depends on all tokens before it; a whole sequence's take as much memory as a small model's layers.
"""


@torch.inference_mode()
def own_logits(module: nn.Module, vocab_size: int, *, copied: bool = True) -> list[torch.Tensor]:
    """What `generate` sees of the proof's sequences at their `ENDS`, [num_ends, vocab_size] each:
    eager attention, a first part, and the rest through the model's own cache. Runs on a clone, if
    `copied`."""
    oracle: Any = clone_module(module) if copied else module
    use_attention(oracle, "eager")
    device, name = next(oracle.parameters()).device, cache_name(oracle)
    found = []
    for ids, ends in zip(_sequences(vocab_size, device), ENDS, strict=True):
        places = torch.arange(len(ids), device=device)
        parts, past = [], None
        for part in (slice(0, len(ids) - 3), slice(len(ids) - 3, len(ids))):
            output = oracle(
                input_ids=ids[None, part],
                position_ids=places[None, part],
                use_cache=True,
                **{name: past},
            )
            past = returned_cache(output, name)
            kept = [end - part.start for end in ends if part.start <= end < part.stop]
            parts.append(output.logits[0, kept])
            del output
        found.append(torch.cat(parts))
    return found


def logits_at(model: Model) -> torch.Tensor:
    """What `each_logits` tells, end to end."""
    return torch.cat(list(each_logits(model)))


def each_logits(model: Model, most: int = sum(LENGTHS)) -> Iterator[torch.Tensor]:
    """Logits [.., vocab_size] of each of the proof's steps as the model computes them, once at the
    first positions and once at the last ones that the model has; of `most` tokens of a step, first
    and last among them."""
    sequences = _sequences(model.vocab_size, model.device)
    model.allocate_cache(4, PROOF_BLOCK_SIZE)
    for offset in (0, max(0, model.max_position - max(LENGTHS))):
        for step in STEPS:
            row, positions, metadata = _packed(step, sequences)
            kept = torch.linspace(0, len(row) - 1, min(most, len(row))).round().long()
            kept = kept.to(model.device)
            yield model.forward(row, positions + offset, metadata, kept).float()
    model.release_cache()


def compare(
    model: Model,
    expected: Sequence[torch.Tensor],
    steps: Sequence[ProofStep],
    begin: Callable[[ProofStep], None] = lambda step: None,
) -> float:
    """The largest relative error of a piece's last logits, over all steps and sequences. `begin` is
    told of each step before its forward."""
    sequences = _sequences(model.vocab_size, model.device)
    model.allocate_cache(4, PROOF_BLOCK_SIZE)
    errors = []
    for step in steps:
        row, positions, metadata = _packed(step, sequences)
        last = metadata.cu_seqlens_q[1:].long() - 1
        begin(step)
        logits = model.forward(row, positions, metadata, last)
        wanted = [expected[seq][ENDS[seq].index(stop - 1)] for seq, _, stop in step]
        errors.append(relative_errors(logits, torch.stack(wanted)))
    model.release_cache()
    return float(torch.cat(errors).max())


def worst_error(logits: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """The largest relative error of a row of logits."""
    pairs = zip(logits, wanted, strict=True)
    return max(float(relative_errors(one, other).max()) for one, other in pairs)


def relative_errors(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of each row of logits (L2). [..., vocab_size] both -> [...]"""
    wanted = wanted.float()
    error: torch.Tensor = (logits.float() - wanted).norm(dim=-1)
    relative: torch.Tensor = error / wanted.norm(dim=-1).clamp_min(1e-6)
    return relative


def _sequences(vocab_size: int, device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, vocab_size, (length,), generator=generator).to(device)
        for length in LENGTHS
    ]


def _packed(
    step: ProofStep, sequences: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, AttentionMetadata]:
    """Tokens and positions of a step, int64 [num_tokens] each, and what attention is told."""
    device = sequences[0].device
    pieces = [Piece(_TABLES[seq], start, stop) for seq, start, stop in step]
    places = [torch.arange(piece.start, piece.stop, device=device) for piece in pieces]
    row = torch.cat([sequences[seq][start:stop] for seq, start, stop in step])
    return row, torch.cat(places), make_metadata(pieces, PROOF_BLOCK_SIZE, device)
