"""Which parts of a loaded and proven model are swapped for faster ones, or for steady ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from batchgen.engine.config import CPU_ROUNDINGS, EngineConfig
from batchgen.engine.cpu.joined_linear import join_linears
from batchgen.engine.cpu.optimize import optimize_for_cpu
from batchgen.engine.mixture.replacing import replace_experts, replace_routers
from batchgen.errors import UsageError

__all__ = ["optimizer_of"]


def optimizer_of(config: EngineConfig, device: torch.device) -> Callable[[Any], object] | None:
    """What to do with the module, in place; None: it stays as it is."""
    if device.type == "cpu" and config.tensor_parallel > 1:
        return None  # what is packed there knows of no other rank
    if device.type == "cpu":
        return partial(_optimize_for_cpu, config=config)
    if device.type == "cuda" and config.deterministic:
        return _make_steady
    if device.type == "cuda" and not config.enforce_eager:
        return partial(_optimize_for_cuda, alone=config.tensor_parallel == 1)
    return None


def _optimize_for_cpu(module: Any, config: EngineConfig) -> None:
    quantization, steady = config.quantization, config.deterministic
    rounded = quantization if quantization in CPU_ROUNDINGS else None
    packed = optimize_for_cpu(module, module.dtype, rounded, steady=steady)
    if rounded is not None and not packed:
        raise UsageError(
            f"--quantization {quantization} is not available here: it needs a C compiler and "
            "weights in float32 or bfloat16",
            "leave it out",
        )


def _optimize_for_cuda(module: Any, alone: bool) -> None:
    """`alone`: no other rank is to choose the same experts."""
    from batchgen.engine.cuda.gated_mlp import replace_gated_mlps

    replace_experts(module)
    if alone:
        replace_routers(module)
    replace_gated_mlps(module)
    _join(module)


def _join(module: Any) -> None:
    join_linears(module, lambda: _tiny_forward(module))


def _make_steady(module: Any) -> None:
    from batchgen.engine.steady.cuda.parts import make_steady

    _join(module)
    make_steady(module)


@torch.inference_mode()
def _tiny_forward(module: Any) -> None:
    tokens = torch.arange(3, device=next(module.parameters()).device)[None]
    module(input_ids=tokens, position_ids=tokens, use_cache=False)
