"""What the GPU's kernels are compiled for, read off a model's config alone. Standard library only.

A guess, made before transformers is imported: discovery sees the truth later, and what was guessed
wrong costs a compilation then.
"""

from __future__ import annotations

from typing import Any

from batchgen.engine.config import GPU_BLOCK_SIZE, PROOF_BLOCK_SIZE

__all__ = ["kernel_shapes"]

_DTYPES = ("bfloat16", "float16", "float32")


def kernel_shapes(
    config: dict[str, Any],
    *,
    dtype: str = "auto",
    kv_cache_dtype: str = "auto",
    block_size: int | None = None,
) -> dict[str, Any] | None:
    """Kinds of attention layers, vocabulary, dtypes and block sizes; None where the config does not
    say. The arguments are the command's flags."""
    text: dict[str, Any] = config.get("text_config") or config
    heads = text.get("num_attention_heads") or text.get("n_head")
    width = text.get("hidden_size") or text.get("n_embd")
    vocab_size = text.get("vocab_size")
    if dtype == "auto":
        named = next(
            (c[k] for c in (config, text) for k in ("dtype", "torch_dtype") if c.get(k)), ""
        )
        dtype = str(named).removeprefix("torch.") or "float32"
    if not (heads and width and vocab_size) or dtype not in _DTYPES:
        return None
    head_dim = text.get("head_dim") or width // heads
    layer = {
        "num_heads": heads,
        "num_kv_heads": text.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "v_head_dim": head_dim,
        "softcap": text.get("attn_logit_softcapping"),
        "has_sinks": text.get("model_type") == "gpt_oss",
    }
    return {
        "layers": [layer | {"sliding_window": window} for window in _windows(text)],
        "vocab_size": vocab_size,
        "dtype": dtype,
        "cache_dtype": "float8_e4m3fn" if kv_cache_dtype == "fp8" else dtype,
        "block_sizes": sorted({PROOF_BLOCK_SIZE, block_size or GPU_BLOCK_SIZE}),
    }


def _windows(text: dict[str, Any]) -> list[int | None]:
    """Of the layers' kinds; both kinds where a window is named and its layers are not."""
    window: int | None = text.get("sliding_window")
    if not window or text.get("use_sliding_window") is False:
        return [None]
    kinds = set(text.get("layer_types") or ("sliding_attention", "full_attention"))
    found = {"sliding_attention": window, "full_attention": None}
    return [found[kind] for kind in sorted(kinds) if kind in found] or [None]
