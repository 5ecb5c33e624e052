"""A folder of float8 or packed integer weights as a transformers module.

transformers builds the model and takes every tensor that is not quantised, under its own names and
conversions. A quantised layer is kept packed where it may be and the model has a linear layer of
its name; elsewhere transformers is handed the dequantised weight, made when it asks for it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from batchgen.engine.checkpoint.quantized import Quantized
from batchgen.engine.checkpoint.weight_files import weight_files
from batchgen.engine.gpu import has_capability
from batchgen.engine.mixture.form import Gate, Sizes
from batchgen.engine.mixture.four_bits import RUN
from batchgen.engine.mixture.packed import random_packed
from batchgen.engine.mixture.proof import FEW, Asked, many
from batchgen.engine.mixture.replacing import chosen_of
from batchgen.engine.mixture.rounded import ALIGNMENT, find_experts, random_biases, random_experts
from batchgen.engine.mixture.stored import PARTS, STACKS, check_blocks, put_packed
from batchgen.engine.quantization.replacing import can_stay, linear_names, make_layer, random_weight
from batchgen.engine.quantization.scheme import Scheme
from batchgen.engine.quantization.stored import StoredLayer, StoredTensor, find_layers
from batchgen.engine.weights import hollow_values
from batchgen.errors import ModelRefusedError

__all__ = ["load_packed", "load_packed_experts", "load_random_packed", "open_tensors"]

_logger = logging.getLogger(__name__)
_KEPT_IN = {
    "float8": ((torch.bfloat16, torch.float16), (8, 9)),
    "float4": ((), (0, 0)),
    "integer": ((torch.bfloat16, torch.float16), (8, 0)),
    "mxfp4": ((torch.bfloat16,), (8, 0)),
}
"""Dtypes of the model, and the least compute capability: whose tensor cores multiply float8, or
bfloat16."""
CheckInfo = Callable[[Any, Mapping[str, Any]], None]


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
    it may; `check` judges the module and what transformers says of its load.

    Raises ModelRefusedError, before weights are read, for tensors that are missing or do not fit.
    """
    scheme = quantized.scheme
    assert scheme is not None
    own = _without_quantization(own)
    dtype = _dtype_of(own, dtype)
    with ExitStack() as files:
        tensors = open_tensors(path, files)
        layers = find_layers(str(path), tensors, scheme)
        empty = _empty(own, dtype, trust_remote_code)
        names = linear_names(empty) if keep else {}
        kept = {
            layer.module_name: layer
            for layer in layers
            if names.get(layer.module_name) == layer.shape
            and _can_keep(layer.scheme.kind, dtype, device)
            and can_stay(layer.shape, layer.scheme)
        }
        state = _state(tensors, layers, kept, dtype)
        module = _filled(empty, own, state, dtype, check)
        with torch.no_grad():
            for name, layer in kept.items():
                _put(module, name, layer.read(device), dtype)
    return module, replace(quantized, kept=len(kept), dequantized=len(layers) - len(kept))


def load_packed_experts(
    path: Path,
    own: Any,
    quantized: Quantized,
    dtype: torch.dtype | str,
    device: torch.device,
    *,
    trust_remote_code: bool,
    check: CheckInfo,
) -> tuple[Any, Quantized] | None:
    """As `load_packed`, of experts in MXFP4; None where they cannot stay so."""
    own = _without_quantization(own)
    dtype = _dtype_of(own, dtype)
    if not _can_keep("mxfp4", dtype, device):
        return None
    with ExitStack() as files:
        tensors = open_tensors(path, files)
        empty = _empty(own, dtype, trust_remote_code)
        mixtures = find_experts(empty, RUN)
        if not mixtures:
            return None
        for name, (sizes, _) in mixtures.items():
            check_blocks(str(path), tensors, name, sizes)
        packed = {f"{name}.{s}_{part}" for name in mixtures for s in STACKS for part in PARTS}
        state = {name: one for name, one in tensors.items() if name not in packed}
        module = _filled(empty, own, state | _hollow_experts(empty, mixtures, dtype), dtype, check)
        count = _put_experts(module, mixtures, tensors, dtype, device)
    return module, replace(quantized, kept=count, dequantized=len(mixtures) - count)


def _put_experts(
    module: Any,
    mixtures: Mapping[str, tuple[Sizes, Gate]],
    tensors: Mapping[str, StoredTensor],
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    """How many stay packed; the others are dequantised."""
    count = 0
    for name, form in mixtures.items():
        sizes = form[0]
        chosen = chosen_of(module, sizes)
        asked = Asked(sizes.num_experts, chosen, sizes.hidden, dtype, device)
        counts = FEW if count else many(sizes.num_experts, chosen)
        reason = put_packed(module, name, tensors, form, asked, counts)
        count += reason is None
        if reason is not None:
            _logger.info("experts dequantised: %s: %s", name, reason)
    return count


def _filled(
    empty: Any, own: Any, state: Mapping[str, Any], dtype: torch.dtype, check: CheckInfo
) -> Any:
    """The module of these tensors, as transformers loads it."""
    module, info = type(empty).from_pretrained(
        None,
        config=own,
        state_dict=state,
        dtype=dtype,
        attn_implementation="eager",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    check(module, info)
    return module


def _hollow_experts(
    empty: Any, mixtures: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    names = [f"{name}.{stack}" for name in mixtures for stack in STACKS]
    return {name: hollow_values(empty.get_parameter(name).shape, dtype) for name in names}


def load_random_packed(
    own: Any,
    scheme: Scheme | None,
    dtype: torch.dtype | str,
    device: torch.device,
    *,
    trust_remote_code: bool,
) -> Any:
    """The architecture with random weights, those of linear layers in the scheme, or of experts in
    MXFP4 without one: for benchmarks. Never more than one layer's weight is there whole."""
    own = _without_quantization(own)
    dtype = _dtype_of(own, dtype)
    empty = _empty(own, dtype, trust_remote_code)
    names = linear_names(empty) if scheme is not None else {}
    names = {n: s for n, s in names.items() if scheme is not None and can_stay(s, scheme)}
    state: dict[str, Any] = {f"{n}.weight": hollow_values(s, dtype) for n, s in names.items()}
    mixtures = {}
    if scheme is None or scheme.kind == "float8":
        mixtures = find_experts(empty, RUN if scheme is None else ALIGNMENT)
    state |= _hollow_experts(empty, mixtures, dtype)
    for name, part in empty.named_parameters():
        if name not in state and part.ndim > 1:  # a CPU takes many seconds to draw a vocabulary's
            drawn = torch.empty(part.shape, dtype=dtype, device=device).normal_(std=0.02)
            state[name] = drawn.cpu()
    module = type(empty).from_pretrained(
        None, config=own, state_dict=state, dtype=dtype, attn_implementation="eager"
    )
    with torch.no_grad():
        for name, shape in names.items():
            assert scheme is not None
            _put(module, name, random_weight(shape, scheme, dtype, device), dtype)
        make = random_packed if scheme is None else random_experts
        for name, form in mixtures.items():
            biases = random_biases(module.get_submodule(name), dtype, device)
            module.set_submodule(name, make(*form, biases, dtype, device).eval())
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


def _can_keep(kind: str, dtype: torch.dtype, device: torch.device) -> bool:
    dtypes, least = _KEPT_IN[kind]
    return dtype in dtypes and has_capability(device, least)


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


def open_tensors(path: Path, files: ExitStack) -> dict[str, StoredTensor]:
    """Every tensor of the folder, by name, unread."""
    from safetensors import safe_open

    found = weight_files(path)
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
