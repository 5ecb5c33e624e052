"""A folder of float8 or packed integer weights as a transformers module.

transformers builds the model and takes every tensor that is not quantised, under its own names and
conversions. A quantised layer is kept packed where it may be and the model has a linear layer of
its name; elsewhere transformers is handed the dequantised weight, made when it asks for it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from batchgen.engine.mixture.rounded import find_experts, random_experts
from batchgen.engine.model.quantized import Quantized
from batchgen.engine.quantization.replacing import (
    can_stay,
    linear_names,
    make_layer,
    random_weight,
)
from batchgen.engine.quantization.scheme import Scheme
from batchgen.engine.quantization.stored import StoredLayer, StoredTensor, find_layers
from batchgen.engine.weights import hollow_values
from batchgen.errors import ModelRefusedError

__all__ = ["load_packed", "load_random_packed"]

_KEPT_IN = (torch.bfloat16, torch.float16)
_LEAST = {"float8": (8, 9), "integer": (8, 0)}
"""Compute capability: whose tensor cores multiply float8, or bfloat16."""
CheckInfo = Callable[[Mapping[str, Any]], None]


class _Lazy:
    """Read by transformers as it reads a slice of a file: with [...], when its turn comes."""

    def __init__(self, read: Callable[[], torch.Tensor]) -> None:
        self._read = read

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._read()[index]


def load_packed(
    path: Path,
    own: Any,
    quantized: Quantized,
    dtype: torch.dtype | str,
    device: torch.device,
    *,
    keep: bool,
    trust_remote_code: bool,
    check: CheckInfo,
) -> tuple[Any, Quantized]:
    """The module, most of it on the CPU still, and whether it has quantised layers. `keep`: whether
    it may; `check` judges what transformers says of the load.

    Raises ModelRefusedError, before weights are read, for tensors that are missing or do not fit.
    """
    scheme = quantized.scheme
    assert scheme is not None
    own = _without_quantization(own)
    dtype = _dtype_of(own, dtype)
    with ExitStack() as files:
        tensors = _open(path, files)
        layers = find_layers(str(path), tensors, scheme)
        empty = _empty(own, dtype, trust_remote_code)
        names = linear_names(empty) if keep and _can_keep(scheme, dtype, device) else {}
        kept = {
            layer.module_name: layer
            for layer in layers
            if names.get(layer.module_name) == layer.shape and can_stay(layer.shape, scheme)
        }
        state = _state(tensors, layers, kept, dtype)
        module, info = type(empty).from_pretrained(
            None,
            config=own,
            state_dict=state,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        check(info)
        with torch.no_grad():
            for name, layer in kept.items():
                _put(module, name, layer.read(device), dtype)
    return module, replace(quantized, kept=len(kept), dequantized=len(layers) - len(kept))


def load_random_packed(
    own: Any,
    scheme: Scheme,
    dtype: torch.dtype | str,
    device: torch.device,
    *,
    trust_remote_code: bool,
) -> Any:
    """The architecture with random weights, those of linear layers in the scheme: for benchmarks.
    Never more than one layer's weight is there whole."""
    own = _without_quantization(own)
    dtype = _dtype_of(own, dtype)
    empty = _empty(own, dtype, trust_remote_code)
    names = {n: shape for n, shape in linear_names(empty).items() if can_stay(shape, scheme)}
    state: dict[str, Any] = {f"{n}.weight": hollow_values(s, dtype) for n, s in names.items()}
    mixtures = find_experts(empty) if scheme.kind == "float8" else {}
    for name in mixtures:
        for part in ("gate_up_proj", "down_proj"):
            parameter = empty.get_parameter(f"{name}.{part}")
            state[f"{name}.{part}"] = hollow_values(parameter.shape, dtype)
    for name, part in empty.named_parameters():
        if name not in state and part.ndim > 1:  # a CPU takes many seconds to draw a vocabulary's
            drawn = torch.empty(part.shape, dtype=dtype, device=device).normal_(std=0.02)
            state[name] = drawn.cpu()
    module = type(empty).from_pretrained(
        None, config=own, state_dict=state, dtype=dtype, attn_implementation="eager"
    )
    with torch.no_grad():
        for name, shape in names.items():
            _put(module, name, random_weight(shape, scheme, dtype, device), dtype)
        for name, form in mixtures.items():
            part = module.get_submodule(name)
            module.set_submodule(name, random_experts(part, *form, dtype, device).eval())
    return module


def _put(module: Any, name: str, weight: Any, dtype: torch.dtype) -> None:
    bias = module.get_submodule(name).bias
    module.set_submodule(name, make_layer(weight, bias, dtype).eval())


def _state(
    tensors: Mapping[str, StoredTensor],
    layers: list[StoredLayer],
    kept: Mapping[str, StoredLayer],
    dtype: torch.dtype,
) -> dict[str, Any]:
    """What transformers is handed: everything that is not quantised as it lies in the files."""
    packed = {name for layer in layers for name in layer.names.values()}
    state: dict[str, Any] = {name: one for name, one in tensors.items() if name not in packed}
    for layer in layers:
        if layer.module_name in kept:
            state[layer.weight_name] = hollow_values(layer.shape, dtype)
        else:
            state[layer.weight_name] = _Lazy(lambda layer=layer: layer.dense(dtype))  # type: ignore[misc]
    return state


def _can_keep(scheme: Scheme, dtype: torch.dtype, device: torch.device) -> bool:
    if device.type != "cuda" or dtype not in _KEPT_IN:
        return False
    return torch.cuda.get_device_capability(device) >= _LEAST[scheme.kind]


def _without_quantization(own: Any) -> Any:
    own = copy.deepcopy(own)
    for config in (own, own.get_text_config()):
        if getattr(config, "quantization_config", None) is not None:
            del config.quantization_config
    return own


def _dtype_of(own: Any, dtype: torch.dtype | str) -> torch.dtype:
    """`auto` is the config's; where that is silent, what most such checkpoints are made from."""
    found = (own.dtype or own.get_text_config().dtype) if isinstance(dtype, str) else dtype
    return found if isinstance(found, torch.dtype) else torch.bfloat16


def _empty(own: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The model without memory: its class, and the names of its layers."""
    make: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        return make(own, dtype=dtype, trust_remote_code=trust_remote_code)


def _open(path: Path, files: ExitStack) -> dict[str, StoredTensor]:
    """Every tensor of the folder, by name, unread."""
    from safetensors import safe_open

    index = path / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        found = [path / name for name in names]
    else:
        found = sorted(path.glob("model*.safetensors")) or sorted(path.glob("*.safetensors"))
    if not found:
        raise ModelRefusedError(
            f"model {str(path)!r} has quantised weights, and no .safetensors file",
            "name the weights as safetensors; packed weights are not read from pickles",
        )
    tensors: dict[str, StoredTensor] = {}
    for file in found:
        opened = files.enter_context(safe_open(file, framework="pt"))
        tensors |= {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    return tensors
