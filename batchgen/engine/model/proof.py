"""The proof at load: packed, chunked and decoded through the cache equals the model's own forward.

Runs on clones that share the weights, so neither side sees what the other left behind. Thresholds
that a few tokens would never cross (a sliding window) are lowered in the clones first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from batchgen.engine.attention.interface import AttentionBackend, AttentionMetadata
from batchgen.engine.config import PROOF_BLOCK_SIZE
from batchgen.engine.failures import is_out_of_memory
from batchgen.engine.mixture.replacing import has_experts
from batchgen.engine.model.binding import use_attention
from batchgen.engine.model.discovery import Discovery, clone_module, discover
from batchgen.engine.model.finite import check_finite
from batchgen.engine.model.model import Model, bind_model
from batchgen.engine.model.own_cache import cache_name, returned_cache
from batchgen.engine.model.pieces import Piece, make_metadata
from batchgen.engine.model.shrink import SMALL, shrink
from batchgen.engine.packed.layers import has_packed
from batchgen.engine.quantization.proof import has_quantized
from batchgen.errors import ModelRefusedError

__all__ = [
    "allowed_error",
    "check_copies",
    "check_same",
    "compare",
    "confirm",
    "each_logits",
    "first_logits",
    "is_quantized",
    "logits_at",
    "own_logits",
    "prove",
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
LOOSE = 1e-1
MAX_NOISE = 0.15
"""Most of a model's own rounding noise that is believed; unrelated logits differ by 1 or more."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2}
"""Largest relative error of a row of logits (L2); of other dtypes, and of layers
that are quantised, `LOOSE`."""


def prove(
    module: nn.Module, found: Discovery, backend: AttentionBackend, max_position: int
) -> list[torch.Tensor]:
    """Raises ModelRefusedError, naming the model and what differed, unless both sides agree.

    Returns `own_logits` of the module as it is.
    """
    subject, vocab_size = clone_module(module), found.vocab_size
    if shrunk := shrink(subject, max_position):
        found = _rediscover(subject, found)
    try:
        expected = own_logits(subject, vocab_size)
        model = bind_model(subject, found, backend, max(LENGTHS))
        worst = compare(model, expected, STEPS)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        what = f"its forward failed ({type(error).__name__}: {error})"
        raise _refused(found.model_type, what) from error
    check_finite(module, found.model_type, expected)
    if worst > allowed_error(module) and (model.dtype != torch.float32 or is_quantized(subject)):
        worst -= 3 * _own_noise(subject, vocab_size)  # experts that change sides at a rounding
    _judge(model, worst)
    return own_logits(module, vocab_size) if shrunk else expected


def confirm(model: Model, expected: Sequence[torch.Tensor]) -> None:
    """Raises ModelRefusedError unless the model to be used still answers as `own_logits` did."""
    worst = compare(model, expected, WHOLE)
    rounds = has_experts(model.module) and model.dtype != torch.float32
    if worst > allowed_error(model.module) and (rounds or has_quantized(model.module)):
        worst -= 3 * _own_noise(model.module, model.vocab_size)  # what rounds otherwise
    _judge(model, worst)


def first_logits(module: Any, vocab_size: int) -> list[torch.Tensor]:
    """`own_logits` of the module itself, before any copy is made. Raises ModelRefusedError where
    its layers, which another package may compute, do not run."""
    try:
        return own_logits(module, vocab_size, copied=False)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        what = f"its forward failed ({type(error).__name__}: {error})"
        raise _refused(module.config.model_type, what) from error


def check_copies(module: Any, copied: Sequence[torch.Tensor], own: Sequence[torch.Tensor]) -> None:
    """Raises ModelRefusedError unless copies of the module answer as it did before any was made:
    layers that keep weights outside their parameters may lose them."""
    if not worst_error(copied, own) <= LOOSE:
        raise _refused(
            module.config.model_type, "its quantised layers answer differently after the first call"
        )


def check_same(
    module: Any, logits: Sequence[torch.Tensor], own: Sequence[torch.Tensor], how: str
) -> None:
    """Raises ModelRefusedError unless a module that was changed answers as it did before."""
    worst = worst_error(logits, own)
    if not worst <= allowed_error(module):
        raise _refused(
            module.config.model_type,
            f"{how}, it answers otherwise than as transformers runs it so: the logits' relative "
            f"error is {worst:.2g}",
        )


def is_quantized(module: Any) -> bool:
    """Whether layers compute with quantised weights."""
    own = has_quantized(module) or has_packed(module)
    return own or getattr(module, "hf_quantizer", None) is not None


def logits_at(model: Model, max_position: int) -> torch.Tensor:
    """What `each_logits` tells, end to end."""
    return torch.cat(list(each_logits(model, max_position)))


def each_logits(
    model: Model, max_position: int, most: int = sum(LENGTHS)
) -> Iterator[torch.Tensor]:
    """Logits [.., vocab_size] of each of the proof's steps as the model computes them, once at the
    first positions and once at the last ones that the model has; of `most` tokens of a step, first
    and last among them."""
    sequences = _sequences(model.vocab_size, model.device)
    model.allocate_cache(4, PROOF_BLOCK_SIZE)
    for offset in (0, max(0, max_position - max(LENGTHS))):
        for step in STEPS:
            row, positions, metadata = _packed(step, sequences)
            kept = torch.linspace(0, len(row) - 1, min(most, len(row))).round().long()
            kept = kept.to(model.device)
            yield model.forward(row, positions + offset, metadata, kept).float()
    model.release_cache()


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


def _rediscover(subject: nn.Module, found: Discovery) -> Discovery:
    """The shrunk clone's own attention: windows where the model has them, and nowhere else."""
    again = discover(subject, found.model_type, found.vocab_size)
    for before, after in zip(found.specs, again.specs, strict=True):
        expected = None if before.sliding_window is None else min(before.sliding_window, SMALL)
        if after.sliding_window != expected:
            raise _refused(
                found.model_type,
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


def _packed(
    step: ProofStep, sequences: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, AttentionMetadata]:
    """Tokens and positions of a step, int64 [num_tokens] each, and what attention is told."""
    device = sequences[0].device
    pieces = [Piece(_TABLES[seq], start, stop) for seq, start, stop in step]
    places = [torch.arange(piece.start, piece.stop, device=device) for piece in pieces]
    row = torch.cat([sequences[seq][start:stop] for seq, start, stop in step])
    return row, torch.cat(places), make_metadata(pieces, PROOF_BLOCK_SIZE, device)


def _own_noise(module: nn.Module, vocab_size: int) -> float:
    """The largest relative error of the model against itself, its embeddings off by a rounding."""

    def jolt(_: nn.Module, __: Any, embedded: torch.Tensor) -> torch.Tensor:
        up = torch.arange(embedded.shape[-1], device=embedded.device) % 2 * 2 - 1
        return embedded * (1 + up * 2 * torch.finfo(embedded.dtype).eps).to(embedded.dtype)

    jolted = clone_module(module)
    jolted.get_input_embeddings().register_forward_hook(jolt)
    noise = worst_error(own_logits(module, vocab_size), own_logits(jolted, vocab_size))
    return min(noise, MAX_NOISE)


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


def allowed_error(module: Any) -> float:
    """Most relative error of a row of logits that is rounding."""
    return LOOSE if is_quantized(module) else TOLERANCE.get(next(module.parameters()).dtype, LOOSE)


def _judge(model: Model, worst: float) -> None:
    allowed = allowed_error(model.module)
    if not worst <= allowed:  # NaN must not pass
        raise _refused(
            model.model_type,
            "two sequences packed, chunked and decoded through the KV cache differ from the "
            f"model's own forward: the logits' relative error is {worst:.2g}, {allowed:.2g} is "
            f"allowed in {str(model.dtype).removeprefix('torch.')}",
        )


def _refused(model_type: str, what: str) -> ModelRefusedError:
    return ModelRefusedError(
        f"model type {model_type!r} cannot be served exactly: {what}",
        "`batchgen docs models` lists the types that are proven; see whether a newer batchgen or "
        "transformers serves this one",
    )
