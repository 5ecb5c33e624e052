"""What `--deterministic` asks of a loaded model: no part that depends on the step; the proof."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from batchgen.engine.attention.interface import AttentionBackend
from batchgen.engine.attention.select import backend_name, select_backend
from batchgen.engine.config import PROOF_BLOCK_SIZE, EngineConfig
from batchgen.engine.cuda.buckets import sizes_up_to
from batchgen.engine.model.model import Model
from batchgen.engine.model.pieces import Piece
from batchgen.engine.steady.audit import dependent_parts
from batchgen.engine.steady.proof import first_difference, one_step
from batchgen.errors import ModelRefusedError, UsageError
from batchgen.startup import timeline

__all__ = ["backend_of", "check_parts", "check_settings", "prove_steady", "proven_steady"]

T = TypeVar("T")
_logger = logging.getLogger(__name__)

_SHOWN = 3
_MOST_ROWS = 8192
"""Of a product by the library: those of steps as large as they are by default."""
_OTHERWISE = "leave --deterministic out: each row is then right, but a near tie may fall otherwise"


def check_settings(config: EngineConfig) -> None:
    """Raises UsageError for what no row's bits can be held under."""
    if config.chooses_adapters:
        raise UsageError(
            "--deterministic cannot hold where rows choose among adapters: their products are "
            "computed for the rows of a step together",
            "merge one (--adapter DIR alone), or leave --deterministic out",
        )


def backend_of(config: EngineConfig, device: torch.device) -> AttentionBackend:
    """The attention that a model is bound to."""
    if config.deterministic and backend_name(device, config.attention_backend) == "triton":
        from batchgen.engine.steady.cuda.attention import steady_attention

        return steady_attention()
    return select_backend(device, config.attention_backend)


def check_parts(model: Model, block_size: int = PROOF_BLOCK_SIZE) -> None:
    """Raises ModelRefusedError, naming them, for parts whose sums depend on the step's rows, where
    the cache has blocks of this size.

    Sees operators, so call it before layers are compiled.
    """
    if getattr(model.backend, "shares", False):
        raise _refused(model, _named(["attention: keys read for several rows"]), _OTHERWISE)
    model.allocate_cache(5, block_size)
    ids = torch.arange(1, 6, device=model.device) % model.vocab_size
    pieces = [Piece((3, 2, 1, 0), 0, 4), Piece((4,), 0, 1)]
    parts = dependent_parts(
        model.module, lambda: one_step(model, pieces, [ids[:4], ids[4:]], [3, 4], block_size)
    )
    model.release_cache()
    if parts:
        raise _refused(model, _named(parts), _hint(model))


def prove_steady(model: Model) -> str:
    """What is proven. Raises ModelRefusedError unless a row's logits are the same bits in every
    kind of step."""
    how = first_difference(model)
    if how is not None:
        raise _refused(model, f"a row computed {how} has other logits than alone", _OTHERWISE)
    return f"--deterministic: rows answer bit for bit alike in any step, in {_dtype(model)}"


def proven_steady(
    build: Callable[[Model, EngineConfig], T],
) -> Callable[[Model, EngineConfig], T]:
    """`build`, once it is proven that rows answer alike in any step, by the layers as they run."""

    def build_proven(model: Model, config: EngineConfig) -> T:
        with timeline.span("steady"):
            _logger.info("%s", _try_library(model))
            _logger.info("%s", prove_steady(model))
        return build(model, config)

    return build_proven


def _try_library(model: Model) -> str:
    """Let the library multiply where it gives the bits of our kernel; where that is."""
    from batchgen.engine.steady.cuda.library import try_library
    from batchgen.engine.steady.cuda.parts import steady_layers

    layers = steady_layers(model.module)
    equal, tried = try_library(layers, sizes_up_to(_MOST_ROWS))
    where = f"{equal} of {tried} sizes of {len(layers)} kinds of layers"
    return f"--deterministic: the library adds up in the kernel's order at {where}"


def _named(parts: list[str]) -> str:
    shown = ", ".join(parts[:_SHOWN])
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return f"these sum in an order that depends on the rows of a step: {shown}{more}"


def _hint(model: Model) -> str:
    if model.device.type == "cpu" and model.dtype not in (torch.float32, torch.bfloat16):
        return "take --dtype bfloat16 or float32, or leave --deterministic out"
    if model.device.type == "cpu":
        return (
            "on a CPU it needs the C kernels (see batchgen doctor), and a --block-size that is a "
            f"multiple of 16; or {_OTHERWISE}"
        )
    return _OTHERWISE


def _refused(model: Model, what: str, hint: str) -> ModelRefusedError:
    return ModelRefusedError(
        f"--deterministic cannot hold for model type {model.model_type!r} in {_dtype(model)} on "
        f"{model.device.type}: {what}",
        hint,
    )


def _dtype(model: Model) -> str:
    return str(model.dtype).removeprefix("torch.")
