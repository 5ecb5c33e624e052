"""The proof at load: packed, chunked and decoded through the cache equals the model's own forward.

Runs on clones that share the weights, so neither side sees what the other left behind. Thresholds
that a few tokens would never reach (a sliding window) are shrunk in the clones' config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from batchgen.engine.attention.interface import AttentionBackend, AttentionMetadata
from batchgen.engine.binding import use_attention
from batchgen.engine.discovery import Discovery, clone_module, discover
from batchgen.engine.model import Model, bind_model
from batchgen.errors import ModelRefusedError

__all__ = ["Piece", "make_metadata", "prove", "shrink"]

BLOCK_SIZE = 16
LENGTHS = (23, 11)
STEPS = (
    ((0, 0, 7), (1, 0, 2)),
    ((1, 2, 8), (0, 7, 20)),
    ((0, 20, 21), (1, 8, 9)),
    ((0, 21, 22), (1, 9, 10)),
    ((0, 22, 23), (1, 10, 11)),
)
"""Per step, the pieces it packs: (sequence, first token, end)."""
SMALL = 5
"""What the thresholds of a config become that the proof's few tokens must cross: sliding windows,
and the position from which on a query scale grows."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest relative error of a row of logits (L2)."""


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


def prove(
    module: nn.Module,
    model_type: str,
    found: Discovery,
    backend: AttentionBackend,
    vocab_size: int,
) -> None:
    """Raises ModelRefusedError, naming the model and what differed, unless both sides agree."""
    subject = clone_module(module)
    if shrink(subject):
        found = _rediscover(subject, model_type, found, vocab_size)
    oracle = clone_module(subject)
    use_attention(oracle, "eager")
    model = bind_model(subject, model_type, found, backend, vocab_size, sum(LENGTHS))
    sequences = _sequences(vocab_size, model.device)
    try:
        expected = [_own_logits(oracle, sequence) for sequence in sequences]
        worst = _compare(model, sequences, expected)
    except Exception as error:
        raise _refused(
            model_type, f"the forward failed: {type(error).__name__}: {error}"
        ) from error
    allowed = TOLERANCE[model.dtype]
    if not worst <= allowed:  # NaN must not pass
        raise _refused(
            model_type,
            "two sequences packed, chunked and decoded through the KV cache differ from the "
            f"model's own forward: the logits' relative error is {worst:.2g}, {allowed:.2g} is "
            f"allowed in {str(model.dtype).removeprefix('torch.')}",
        )


def shrink(module: nn.Module) -> bool:
    """Lower the thresholds of a clone's config and modules; whether there were any."""
    configs = {id(c): c for c in map(_config_of, module.modules()) if c is not None}
    holders: list[Any] = [*configs.values(), *module.modules()]
    shrunk = [_shrink_window(holder) for holder in holders]
    shrunk += [
        _shrink_rope(getattr(config, "rope_parameters", None)) for config in configs.values()
    ]
    return any(shrunk)


def _shrink_window(holder: Any) -> bool:
    value = getattr(holder, "sliding_window", None)
    if isinstance(value, bool) or not isinstance(value, int) or value <= SMALL:
        return False
    holder.sliding_window = SMALL
    return True


def _shrink_rope(rope: Any) -> bool:
    """The length that Llama 4's kind of query scale starts from; RoPE itself is set up already."""
    if not isinstance(rope, dict):
        return False
    if "llama_4_scaling_beta" not in rope:
        layers = [_shrink_rope(value) for value in rope.values()]
        return any(layers)
    rope["original_max_position_embeddings"] = SMALL
    return True


def _config_of(part: nn.Module) -> Any:
    return getattr(part, "config", None)


def _rediscover(
    subject: nn.Module, model_type: str, found: Discovery, vocab_size: int
) -> Discovery:
    """The shrunk clone's own attention: windows where the model has them, and nowhere else."""
    again = discover(subject, model_type, vocab_size)
    for before, after in zip(found.specs, again.specs, strict=True):
        expected = None if before.sliding_window is None else min(before.sliding_window, SMALL)
        if after.sliding_window != expected:
            raise _refused(
                model_type,
                f"attention call {before.index} has a sliding window of {before.sliding_window} "
                "tokens that does not follow the config's sliding_window",
            )
    return again


def _sequences(vocab_size: int, device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, vocab_size, (length,), generator=generator).to(device)
        for length in LENGTHS
    ]


@torch.inference_mode()
def _own_logits(oracle: Any, sequence: torch.Tensor) -> torch.Tensor:  # [length, vocab_size]
    positions = torch.arange(len(sequence), device=sequence.device)[None]
    output = oracle(input_ids=sequence[None], position_ids=positions, use_cache=False)
    logits: torch.Tensor = output.logits[0]
    return logits


def _compare(model: Model, sequences: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest relative error of a step's last logits, over all steps and sequences."""
    tables = ((3, 0), (2, 1))
    model.allocate_cache(4, BLOCK_SIZE)
    errors = []
    for step in STEPS:
        pieces = [Piece(tables[seq], start, stop) for seq, start, stop in step]
        metadata = make_metadata(pieces, BLOCK_SIZE, model.device)
        row = torch.cat([sequences[seq][start:stop] for seq, start, stop in step])
        places = [torch.arange(p.start, p.stop, device=model.device) for p in pieces]
        last = metadata.cu_seqlens_q[1:].long() - 1
        logits = model.forward(row, torch.cat(places), metadata, last).float()
        wanted = torch.stack([expected[seq][stop - 1] for seq, _, stop in step]).float()
        errors.append((logits - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp_min(1e-6))
    model.release_cache()
    return float(torch.cat(errors).max())


def _refused(model_type: str, what: str) -> ModelRefusedError:
    return ModelRefusedError(
        f"model type {model_type!r} cannot be served exactly: {what}",
        "README lists the model types that are proven; see whether a newer batchgen or "
        "transformers serves this one",
    )
