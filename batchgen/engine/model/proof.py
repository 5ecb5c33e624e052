"""The proof at load: packed, chunked and decoded through the cache equals the model's own forward.

Runs on clones that share the weights, so neither side sees what the other left behind. Thresholds
that a few tokens would never cross (a sliding window) are lowered in the clones first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from batchgen.engine.attention.interface import AttentionBackend
from batchgen.engine.failures import is_out_of_memory
from batchgen.engine.mixture.replacing import has_experts
from batchgen.engine.model.discovery import Discovery, clone_module, discover
from batchgen.engine.model.finite import check_finite
from batchgen.engine.model.model import Model, bind_model
from batchgen.engine.model.proof_logits import (
    LENGTHS,
    STEPS,
    WHOLE,
    compare,
    own_logits,
    worst_error,
)
from batchgen.engine.model.shrink import SMALL, shrink
from batchgen.engine.packed.layers import has_packed
from batchgen.engine.quantization.proof import has_quantized
from batchgen.errors import ModelRefusedError

__all__ = [
    "allowed_error",
    "check_copies",
    "check_same",
    "confirm",
    "first_logits",
    "is_quantized",
    "prove",
]

LOOSE = 1e-1
MAX_NOISE = 0.15
"""Most of a model's own rounding noise that is believed; unrelated logits differ by 1 or more."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2}
"""Largest relative error of a row of logits (L2); of other dtypes, and of layers that are
quantised, `LOOSE`."""


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


def _own_noise(module: nn.Module, vocab_size: int) -> float:
    """The largest relative error of the model against itself, its embeddings off by a rounding."""

    def jolt(_: nn.Module, __: Any, embedded: torch.Tensor) -> torch.Tensor:
        up = torch.arange(embedded.shape[-1], device=embedded.device) % 2 * 2 - 1
        return embedded * (1 + up * 2 * torch.finfo(embedded.dtype).eps).to(embedded.dtype)

    jolted = clone_module(module)
    jolted.get_input_embeddings().register_forward_hook(jolt)
    noise = worst_error(own_logits(module, vocab_size), own_logits(jolted, vocab_size))
    return min(noise, MAX_NOISE)


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
