"""The quantised layers of a checkpoint, by the names, shapes and types of its tensors: checked
before any of them is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from batchgen.engine.quantization.float4 import FLOAT4_PARTS, Float4, read_float4
from batchgen.engine.quantization.float8 import INPUT_SCALES, WEIGHT_SCALES, Float8, read_float8
from batchgen.engine.quantization.integers import INTEGER_PARTS, Integers, read_integers
from batchgen.engine.quantization.scheme import Scheme
from batchgen.errors import ModelRefusedError

__all__ = ["StoredLayer", "StoredTensor", "find_layers"]

_FLOAT8 = "F8_E4M3"
_SCALE_TYPES = ("F64", "F32", "F16", "BF16", "F8_E8M0")
_BESIDE = (
    "bias",
    *INPUT_SCALES,
    "input_global_scale",
    "output_scale",
    "q_scale",
    "k_scale",
    "v_scale",
)
"""What a quantised layer may have that its weight does not need: of inputs, or of a KV cache."""
_AGAIN = "the checkpoint is incomplete or of another scheme than it says; fetch it again"


class StoredTensor(Protocol):
    """As safetensors' slices: what is known before the values are read."""

    def get_shape(self) -> list[int]:
        """Its sizes."""

    def get_dtype(self) -> str:
        """The format's name, such as BF16."""

    def __getitem__(self, index: Any) -> torch.Tensor:
        """[...] reads it whole."""


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One quantised weight: its tensors, and what the dense one is called."""

    weight_name: str
    shape: tuple[int, ...]
    """Of the dense weight."""
    scheme: Scheme
    parts: Mapping[str, StoredTensor]
    names: Mapping[str, str]
    """Part -> what the checkpoint calls it."""

    @property
    def module_name(self) -> str:
        """The layer that has the weight."""
        return self.weight_name.removesuffix(".weight")

    def read(self, device: torch.device | str = "cpu") -> Float8 | Float4 | Integers:
        """Its values, on `device`."""
        parts = {name: part[...].to(device) for name, part in self.parts.items()}
        if self.scheme.kind == "integer":
            return read_integers(parts, self.scheme)
        if self.scheme.kind == "float4":
            return read_float4(parts, self.scheme.packing)
        return read_float8(parts["values"], parts["scale"], self.scheme, parts.get("input_scale"))

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The dequantised weight, on the CPU."""
        return self.read().dense(dtype)


class _Misfit(Exception):
    """What is wrong with a tensor; `find_layers` adds the model's name."""


def find_layers(
    model: str, tensors: Mapping[str, StoredTensor], scheme: Scheme
) -> list[StoredLayer]:
    """All of a checkpoint's, checked. Raises ModelRefusedError naming a tensor that is missing or
    does not fit, and where there is no quantised layer at all."""
    try:
        return _find(tensors, scheme)
    except _Misfit as error:
        raise ModelRefusedError(f"model {model!r}: {error}", _AGAIN) from None


def _find(tensors: Mapping[str, StoredTensor], scheme: Scheme) -> list[StoredLayer]:
    ways = {
        "float4": (_find_float4, _check_float4),  # before the next, which its scales look like
        "float8": (_find_float8, _check_float8),
        "integer": (_find_integers, _check_integers),
    }
    layers: list[StoredLayer] = []
    left = dict(tensors)
    for one in sorted((scheme, *scheme.others), key=lambda one: list(ways).index(one.kind)):
        layers += ways[one.kind][0](left, one)
        for layer in layers:
            for name in layer.names.values():
                left.pop(name, None)
    for layer in layers:
        for part, text in ways[layer.scheme.kind][1](layer):
            raise _Misfit(f"{layer.names[part]} {text}")
    _check_nothing_beside(tensors, layers)
    if not layers:
        raise _Misfit(f"its config.json says {scheme.name} weights, and its files hold none")
    return layers


def _check_nothing_beside(tensors: Mapping[str, StoredTensor], layers: list[StoredLayer]) -> None:
    """Whatever else a layer has would change its answers, were it applied."""
    named = {name for layer in layers for name in layer.names.values()}
    fronts = {layer.module_name for layer in layers if layer.weight_name.endswith(".weight")}
    for name in sorted(tensors.keys() - named):
        front, _, part = name.rpartition(".")
        if front in fronts and part not in _BESIDE:
            raise _Misfit(f"{name} lies beside quantised weights, and is no part of their scheme")


def _find_integers(tensors: Mapping[str, StoredTensor], scheme: Scheme) -> Iterator[StoredLayer]:
    needed, optional = INTEGER_PARTS[scheme.packing]
    found: dict[str, dict[str, str]] = {}
    for name in sorted(tensors):
        layer, _, part = name.rpartition(".")
        if part in needed or part in optional:
            found.setdefault(layer, {})[part] = name
    for layer, names in found.items():
        missing = [part for part in (*needed, *scheme.needed) if part not in names]
        if missing:
            raise _Misfit(f"{layer}.{missing[0]} is missing beside {min(names.values())}")
        parts = {part: tensors[name] for part, name in names.items()}
        shape = _integer_shape(parts, scheme)
        yield StoredLayer(f"{layer}.weight", shape, scheme, parts, names)


def _integer_shape(parts: Mapping[str, StoredTensor], scheme: Scheme) -> tuple[int, int]:
    """(outputs, inputs) by the tensor that holds the codes."""
    held = 32 // scheme.bits
    if scheme.packing == "awq":
        inputs, words = _two(parts["qweight"])
        return words * held, inputs
    if scheme.packing == "pack-quantized":
        outputs, words = _two(parts["weight_packed"])
        stored = parts.get("weight_shape")  # inputs may not fill the last word
        if stored is not None and tuple(stored.get_shape()) == (2,):
            return outputs, int(stored[...][1])
        return outputs, words * held
    words, outputs = _two(parts["qweight"])
    return outputs, words * held


def _two(tensor: StoredTensor) -> tuple[int, int]:
    shape = tensor.get_shape()
    return (shape[0], shape[1]) if len(shape) == 2 else (-1, -1)


def _check_integers(layer: StoredLayer) -> Iterator[tuple[str, str]]:
    """(part, what is wrong with it)."""
    scheme, (outputs, inputs) = layer.scheme, layer.shape
    held = 32 // scheme.bits
    groups = 1 if scheme.group_size < 0 else -(-inputs // scheme.group_size)
    wanted: dict[str, Sequence[int]] = {
        "qweight": (inputs, outputs // held)
        if scheme.packing == "awq"
        else (inputs // held, outputs),
        "qzeros": (groups, outputs // held),
        "scales": (groups, outputs),
        "g_idx": (inputs,),
        "weight_packed": (outputs, -(-inputs // held)),
        "weight_scale": (outputs, groups),
        "weight_zero_point": (-(-outputs // held), groups),
        "weight_g_idx": (inputs,),
        "weight_shape": (2,),
    }
    for part, tensor in layer.parts.items():
        shape, is_words = tuple(tensor.get_shape()), part in ("qweight", "qzeros", "weight_packed")
        if is_words and tensor.get_dtype() != "I32":
            yield part, f"is of type {tensor.get_dtype()}, not of packed 32-bit words"
        if part in ("scales", "weight_scale") and tensor.get_dtype() not in _SCALE_TYPES:
            yield part, f"is of type {tensor.get_dtype()}, which no scale has"
        unpacked = part == "weight_zero_point" and tensor.get_dtype() != "I32"
        fits = tuple(wanted[part]) if not unpacked else (outputs, groups)
        if shape != fits:
            size = f"{scheme.bits} bits in groups of {scheme.group_size}"
            yield part, f"has the shape {[*shape]}, not {[*fits]} as {size} ask"


def _find_float4(tensors: Mapping[str, StoredTensor], scheme: Scheme) -> Iterator[StoredLayer]:
    types = FLOAT4_PARTS[scheme.packing]
    codes = next(iter(types))
    for name in sorted(tensors):
        front, _, part = name.rpartition(".")
        if part != codes or tensors[name].get_dtype() not in types[codes]:
            continue
        names = {one: f"{front}.{one}" for one in types}
        missing = next((one for one in names.values() if one not in tensors), None)
        if missing is not None:
            raise _Misfit(f"{missing} is missing beside {name}")
        outputs, held = _two(tensors[name])
        parts = {one: tensors[own] for one, own in names.items()}
        yield StoredLayer(f"{front}.weight", (outputs, 2 * held), scheme, parts, names)


def _check_float4(layer: StoredLayer) -> Iterator[tuple[str, str]]:
    (outputs, inputs), size = layer.shape, layer.scheme.group_size
    for (part, types), tensor in zip(
        FLOAT4_PARTS[layer.scheme.packing].items(), layer.parts.values(), strict=True
    ):
        shape, kind = tuple(tensor.get_shape()), tensor.get_dtype()
        if kind not in types:
            yield part, f"is of type {kind}, not {' or '.join(types)}"
        fits: list[tuple[int, ...]] = [(), (1,)]
        if part == "weight_scale":
            fits = [(outputs, inputs // size)]
        elif types == ("U8",):
            fits = [(outputs, inputs // 2)]
        if shape not in fits or inputs % size:
            yield part, f"has the shape {[*shape]}, which is none for groups of {size}"


def _find_float8(tensors: Mapping[str, StoredTensor], scheme: Scheme) -> Iterator[StoredLayer]:
    for name in sorted(tensors):
        if tensors[name].get_dtype() != _FLOAT8:
            continue
        scale = next((name + end for end in WEIGHT_SCALES if name + end in tensors), None)
        if scale is None:
            text = f"{name} is in float8, and its scale {name}{WEIGHT_SCALES[1]} is missing"
            raise _Misfit(text)
        names = {"values": name, "scale": scale}
        front = name.removesuffix("weight")
        fixed = next((front + end for end in INPUT_SCALES if front + end in tensors), None)
        if fixed is not None:
            names["input_scale"] = fixed
        parts = {part: tensors[one] for part, one in names.items()}
        yield StoredLayer(name, tuple(tensors[name].get_shape()), scheme, parts, names)


def _check_float8(layer: StoredLayer) -> Iterator[tuple[str, str]]:
    shape, scale = layer.shape, tuple(layer.parts["scale"].get_shape())
    kind = layer.parts["scale"].get_dtype()
    if kind not in _SCALE_TYPES and not (kind == "U8" and layer.scheme.byte_scales):
        yield "scale", f"is of type {kind}, which no scale has"
    if len(shape) < 2:
        yield "values", f"has the shape {[*shape]}, which no layer's weight has"
        return
    whole = ((), (1,), (1, 1))
    if len(shape) > 2:
        fits = [shape[:-2], (*shape[:-2], 1, 1)]
    else:
        fits = [*whole, shape[:1], (shape[0], 1)]
    block = layer.scheme.block
    if block is not None:
        fits = [*whole, (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))]
    if scale not in fits:
        of = "one for each output or for the whole" if block is None else f"one for each {block}"
        yield "scale", f"has the shape {[*scale]}, not {of} of {[*shape]}"
