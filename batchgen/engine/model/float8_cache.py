"""The opt-in KV cache in float8 (e4m3, scale 1): where it can be had, and what its rounding does.

A model is proven with the cache in its own dtype, as strictly as without the option. Then the
backend's kernels are compared with the oracle over a cache that is rounded alike, for each kind of
layer that the model has: what a compiler makes of such a cache is not trusted unseen. Only then are
keys and values rounded, and the proof's steps show by how much the model's logits move.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from batchgen.engine.attention.interface import AttentionBackend, AttentionSpec, CacheShape
from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.attention.select import backend_name
from batchgen.engine.config import GPU_BLOCK_SIZE, EngineConfig
from batchgen.engine.gpu import check_float8
from batchgen.engine.model.model import Model
from batchgen.engine.model.pieces import Piece, make_metadata
from batchgen.engine.model.proof_logits import logits_at, relative_errors
from batchgen.errors import UsageError

__all__ = ["check_kv_cache_dtype", "round_cache"]

_MOST = 0.5
"""Relative error of a row of logits (L2); unrelated ones differ by 1 or more. A model with keys far
beyond 448 gets there."""
_STEPS = (((0, 0, 200), (1, 0, 3)), ((0, 200, 201), (1, 3, 280)), ((0, 201, 202), (1, 280, 281)))
"""Per step: (sequence, first token, end)."""
_KERNEL_ERROR = 2e-2
"""Relative (L2): rounding to bfloat16 makes 4e-3."""
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
        check_float8(device, asked, "converts")


def round_cache(model: Model) -> None:
    """Keep keys and values in float8 from here on; what that does to the logits becomes a note.

    Raises UsageError where the kernels do not serve the model, or where it does not survive it.
    """
    if model.backend.name == "triton" and model.dtype == torch.float32:
        raise UsageError(
            "--kv-cache-dtype fp8 is for models in bfloat16 or float16, and this one is in float32",
            f"add --dtype bfloat16, or {_OUT}",
        )
    if model.backend.name != "reference":
        _check_kernels(model)
    plain = logits_at(model)
    model.cache_dtype = torch.float8_e4m3fn
    moved = float(relative_errors(logits_at(model), plain).mean())
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


def _check_kernels(model: Model) -> None:
    """Raises UsageError where attention over a rounded cache is not the oracle's."""
    kinds = {replace(spec, index=0): spec for spec in model.specs}
    for spec in kinds.values():
        ours, wanted = (
            _attend(backend, spec, model.dtype, model.device)
            for backend in (model.backend, ReferenceBackend())
        )
        error = float((ours - wanted).norm() / wanted.norm())
        if not error <= _KERNEL_ERROR:  # NaN must not pass
            raise UsageError(
                f"--kv-cache-dtype fp8: the {model.backend.name} kernels are not right on this "
                f"device, attention of call {spec.index} differs from the oracle's by {error:.2g}",
                _OUT,
            )


@torch.inference_mode()
def _attend(
    backend: AttentionBackend, spec: AttentionSpec, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """What random tokens get, prompts and decodes in steps of every kind, in float32."""
    draw = torch.Generator().manual_seed(0)
    heads = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
    dims = (spec.head_dim, spec.head_dim, spec.v_head_dim)
    sinks = torch.randn(spec.num_heads, generator=draw).to(device, dtype)
    cache = backend.allocate(spec, CacheShape(16, GPU_BLOCK_SIZE, torch.float8_e4m3fn, device))
    tables = ((4, 1, 9, 6, 12), (2, 11, 3, 0, 7))
    found = []
    for step in _STEPS:
        pieces = [Piece(tables[seq], start, stop) for seq, start, stop in step]
        metadata = make_metadata(pieces, GPU_BLOCK_SIZE, device)
        backend.prepare(metadata)
        query, key, value = (
            torch.randn(metadata.num_tokens, *shape, generator=draw).to(device, dtype)
            for shape in zip(heads, dims, strict=True)
        )
        given = sinks if spec.has_sinks else None
        found.append(backend.forward(query, key, value, cache, spec, metadata, given).float())
    return torch.cat([out.flatten() for out in found])
