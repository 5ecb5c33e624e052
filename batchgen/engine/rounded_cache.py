"""The opt-in KV cache in float8 (e4m3, scale 1): where it can be had, and what its rounding does.

A model is proven with the cache in its own dtype, as strictly as without the option; only then are
keys and values rounded, and the same steps show by how much its logits move.
"""

from __future__ import annotations

import torch

from batchgen.engine.attention.select import backend_name
from batchgen.engine.config import EngineConfig
from batchgen.engine.model import Model
from batchgen.engine.proof import logits_at
from batchgen.errors import UsageError

__all__ = ["check_kv_cache_dtype", "round_cache"]

_CONVERTS = (8, 9)
"""Least compute capability with instructions that convert e4m3."""
_MOST = 0.5
"""Relative error of a row of logits (L2); unrelated ones differ by 1 or more. A model with keys far
beyond 448 gets there."""
_OUT = "leave --kv-cache-dtype out"


def check_kv_cache_dtype(config: EngineConfig, device: torch.device) -> None:
    """Raises UsageError, before weights are loaded, where `--kv-cache-dtype` cannot be served.

    The backend `reference` serves it on every device.
    """
    asked = f"--kv-cache-dtype {config.kv_cache_dtype}"
    if config.kv_cache_dtype == "auto":
        return
    if config.kv_cache_dtype != "fp8":
        raise UsageError(f"unknown KV cache dtype {config.kv_cache_dtype!r}", "use auto or fp8")
    if config.deterministic:
        raise UsageError(
            f"{asked} rounds keys and values, so --deterministic cannot hold",
            "leave one of the two out",
        )
    backend = backend_name(device, config.attention_backend)
    if backend == "cpu":
        raise UsageError(
            f"{asked} is for CUDA: on the CPU the cache has the model's dtype",
            f"{_OUT}; --attention-backend reference shows, slowly, what the rounding does",
        )
    if backend == "triton":
        found = torch.cuda.get_device_capability(device)
        if found < _CONVERTS:
            raise UsageError(
                f"{asked} needs a GPU that converts float8, of compute capability 8.9 or later; "
                f"{torch.cuda.get_device_name(device)} has {found[0]}.{found[1]}",
                _OUT,
            )


def round_cache(model: Model) -> None:
    """Keep keys and values in float8 from here on; what that does to the logits becomes a note.

    Raises UsageError where the kernels do not serve the model, or where it does not survive it.
    """
    if model.backend.name == "triton" and model.dtype == torch.float32:
        raise UsageError(
            "--kv-cache-dtype fp8 is for models in bfloat16 or float16, and this one is in float32",
            f"add --dtype bfloat16, or {_OUT}",
        )
    if any(spec.v_head_dim % 2 for spec in model.specs):
        raise UsageError("--kv-cache-dtype fp8 needs values of an even head size", _OUT)
    plain = logits_at(model, model.max_position)
    model.cache_dtype = torch.float8_e4m3fn
    error = (logits_at(model, model.max_position) - plain).norm(dim=-1)
    moved = float((error / plain.norm(dim=-1).clamp_min(1e-6)).mean())
    if not moved <= _MOST:  # NaN must not pass
        raise UsageError(
            "this model does not survive a KV cache in float8 (e4m3, scale 1): the logits of a few "
            f"test tokens move by {moved:.0%} on average",
            _OUT,
        )
    model.notes.append(
        "keys and values are rounded to float8 (e4m3, scale 1): the logits of a few test tokens "
        f"move by {moved:.1%} on average"
    )
