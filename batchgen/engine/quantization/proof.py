"""The proof of a quantised layer: its product, on its device, against the definition in float32.

Each layer is asked with a few random rows, each kind of layer (same shape, same format) with enough
rows to take every path. A way that fails is dropped for the next one; a layer that none computes is
dequantised.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from batchgen.causes import first_line
from batchgen.counts import counted
from batchgen.engine.failures import is_out_of_memory
from batchgen.engine.quantization.linear import QuantizedLinear, dense_linear

__all__ = ["has_quantized", "settle_layers"]

_ERROR = 1e-2
"""Relative (L2). Rounding the outcome to bfloat16 makes 2e-3, sums in fewer bits than float32 the
rest; a wrong scale, order or sign makes 5e-2 or more."""
_FEW = (3,)
_MANY = (3, 20, 50, 100, 150, 1030, 2060)
"""Rows: of decode steps, of a mixed one, of prompts."""


def has_quantized(module: nn.Module) -> bool:
    """Whether any layer is one of ours."""
    return any(isinstance(part, QuantizedLinear) for part in module.modules())


@torch.no_grad()  # not inference mode: a layer that is dequantised has to be joined later
def settle_layers(module: Any) -> list[str]:
    """Prove every quantised layer where it lies; the notes a user should read.

    One way is taken for all layers of a format, so that they stay alike for the compiler.
    """
    layers = {n: p for n, p in module.named_modules() if isinstance(p, QuantizedLinear)}
    dtype = module.get_input_embeddings().weight.dtype
    notes: list[str] = []
    for ways in {layer.ways() for layer in layers.values()}:
        own = {name: layer for name, layer in layers.items() if layer.ways() == ways}
        failed = _settle(own, ways, dtype, notes)
        for name in failed:
            module.set_submodule(name, _dequantized(layers[name], dtype))
        if failed:
            many, name = counted(len(failed), "layer"), min(failed)
            notes.append(f"{many} dequantised, no product is right: {name}: {failed[name]}")
    return notes


def _settle(
    layers: dict[str, Any], ways: tuple[str, ...], dtype: torch.dtype, notes: list[str]
) -> dict[str, str]:
    """Layers that the last way does not compute, and why. Before it, one failure decides."""
    failed: dict[str, str] = {}
    for way in ways:
        for layer in layers.values():
            layer.product = way
        failed = _failures(layers, dtype)
        if not failed:
            break
        if way != ways[-1]:
            name = min(failed)
            notes.append(f"products are not {way}'s: {name}: {failed[name]}")
    return failed


def _failures(layers: dict[str, Any], dtype: torch.dtype) -> dict[str, str]:
    known: Counter[tuple[Any, ...]] = Counter()
    failed = {}
    for name, layer in layers.items():
        kind = (layer.in_features, layer.out_features, layer.product)
        reason = _is_proven(layer, dtype, _FEW if known[kind] else _MANY)
        known[kind] += 1
        if reason is not None:
            failed[name] = reason
    return failed


def _is_proven(layer: QuantizedLinear, dtype: torch.dtype, counts: tuple[int, ...]) -> str | None:
    """None, or what is wrong with the layer's product of so many rows."""
    device = next(layer.parameters()).device
    for count in counts:
        draw = torch.Generator().manual_seed(count)
        x = torch.randn(count, layer.in_features, generator=draw)
        x = (x * torch.logspace(-2, 0, count)[:, None]).to(device, dtype)
        try:
            ours = layer.multiply(x).float()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Of torch, Triton or its compiler: the next way may serve.
            return f"{type(error).__name__}: {first_line(error)}"
        wanted = layer.oracle(x)
        apart = float((ours - wanted).norm() / wanted.norm().clamp_min(1e-20))
        if not apart <= _ERROR:  # NaN must not pass
            return f"{count} rows differ from the definition's by {apart:.2g}"
    return None


def _dequantized(layer: QuantizedLinear, dtype: torch.dtype) -> nn.Linear:
    return dense_linear(layer.dense(dtype), layer.bias).eval()
