"""An adapter's weights, checked against the module they belong to.

y = x W^T + scale * (x A^T) B^T, with A [rank, num_inputs] and B [num_outputs, rank] (Hu et al.,
2021, arXiv:2106.09685); with DoRA each output is then scaled so that its row of W + scale * B A
gets the length that its magnitude says (Liu et al., 2024, arXiv:2402.09353). File format: peft's
`adapter_model.safetensors`, whose keys are `base_model.model.<dotted name>.lora_A.weight`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from batchgen.causes import first_line
from batchgen.counts import counted
from batchgen.lora_config import (
    BIAS,
    MAGNITUDE,
    LoraConfig,
    read_lora_config,
    refused,
)
from batchgen.lora_keys import copied_parameter, read_key, token_rows

__all__ = ["Lora", "LoraLayer", "load_lora"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """What one layer gets. Tensors are float32 until they are placed (`Lora.placed`)."""

    a: torch.Tensor  # [rank, num_inputs]
    b: torch.Tensor  # [num_outputs, rank], times the scale
    bias: torch.Tensor | None = None  # [num_outputs], times the scale
    gain: torch.Tensor | None = None  # [num_outputs]: what DoRA multiplies the outputs with

    @property
    def is_plain(self) -> bool:
        """Whether the product alone is all that it adds."""
        return self.bias is None and self.gain is None

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, float [num_outputs, num_inputs], with all of it in it, in float32. Computed
        where the weight lies: a proof asks for each layer's several times, and a host takes 0.1 s
        for one of an 8B model."""
        found = weight.float() + self.b.to(weight.device) @ self.a.to(weight.device)
        return found if self.gain is None else found * self.gain.to(weight.device)[:, None]

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., num_inputs] -> [..., num_outputs], its own bias included."""
        y: torch.Tensor = (x @ self.a.t()) @ self.b.t()
        return y if self.bias is None else y + self.bias

    def applied(self, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """y [..., num_outputs], the layer's own outputs for x, with `bias` in them, to adapted
        ones."""
        if self.gain is None:
            return y + self.product(x)
        if bias is None:
            return (y + self.product(x)) * self.gain
        return (y - bias + self.product(x)) * self.gain + bias


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter: dotted layer name -> what it gets. `replaced`: the model's own weights that it
    brings anew, by their dotted names, float32."""

    name: str
    layers: dict[str, LoraLayer]
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: frozenset[str] = frozenset()
    """Those of `replaced` of which rows alone were trained."""

    def placed(self, module: Any) -> Lora:
        """The same in the dtype, and on the device, of each layer."""
        found = {}
        for name, layer in self.layers.items():
            weight = module.get_submodule(name).weight
            more = (part if part is None else part.to(weight) for part in (layer.bias, layer.gain))
            found[name] = LoraLayer(layer.a.to(weight), layer.b.to(weight), *more)
        return replace(self, layers=found)


def load_lora(name: str, folder: Path, weights: Path, module: nn.Module) -> Lora:
    """Read an adapter for `module`. ModelRefusedError names what does not fit or is not applied."""
    config = read_lora_config(folder)
    found: dict[str, dict[str, torch.Tensor]] = {}
    replaced: dict[str, torch.Tensor] = {}
    copied, rows = set[str](), set[str]()
    try:
        tensors = _read(weights)
    except Exception as error:  # of safetensors, pickle, zip and torch
        text = f"has weights that cannot be read: {type(error).__name__}: {first_line(error)}"
        raise refused(folder, text) from error
    for key, tensor in tensors.items():
        whole, table = copied_parameter(key), token_rows(key)
        if table is not None:
            replaced[f"{table}.weight"] = _with_rows(config, module, table, tensor)
            rows.add(f"{table}.weight")
        elif whole is None:
            layer, part = read_key(folder, key)
            found.setdefault(layer, {})[part] = tensor.float()
        elif not _has(module, *whole, tensor):
            replaced[".".join(whole)] = _checked(config, module, *whole, tensor)
        if whole is not None:
            copied.add(whole[0])
    if not found and not replaced:
        raise refused(folder, "holds no weights")
    for end in config.saved:
        is_there = any(name.endswith(end) for name, _ in module.named_modules())
        if is_there and not any(config.names_saved(end, name) for name in copied):
            raise refused(folder, f"has modules_to_save={end!r}, and no weights of such a module")
    if config.tokens and not rows:
        raise refused(folder, "has trainable_token_indices, and no rows of an embedding")
    layers = {name: _layer(config, module, name, parts) for name, parts in found.items()}
    _check_targets(config, module, layers)
    return Lora(name, layers, replaced, frozenset(rows))


def _checked(
    config: LoraConfig, module: nn.Module, name: str, kind: str, tensor: torch.Tensor
) -> torch.Tensor:
    """A weight in the place of the model's own."""
    key = f"{name}.{kind}"
    own = dict(module.named_parameters(remove_duplicate=False)).get(key)
    if not config.trains(name, kind):
        text = "other weights than the base model's own cannot be applied"
        raise refused(config.folder, f"holds {key!r}: {text}")
    if own is None or own.shape != tensor.shape:
        found = "none of the name" if own is None else f"one of {[*own.shape]}"
        text = f"holds {key!r} of {[*tensor.shape]}, and this model has {found}"
        raise refused(config.folder, f"{text}: it is of another model, or of more tokens")
    return tensor.float()


def _with_rows(
    config: LoraConfig, module: nn.Module, name: str, rows: torch.Tensor
) -> torch.Tensor:
    """A table with the rows that were trained."""
    named = dict(module.named_modules(remove_duplicate=False))
    table: Any = named.get(name)
    places = next((p for end, p in config.tokens.items() if end and name.endswith(end)), None)
    places = config.tokens.get("", ()) if places is None else places
    weight = getattr(table, "weight", None)
    if not isinstance(weight, torch.Tensor) or rows.shape != (len(places), weight.shape[-1]):
        text = f"has rows of {[*rows.shape]} for {len(places)} tokens of {name}"
        raise refused(config.folder, f"{text}: it is of another model")
    if not all(0 <= place < len(weight) for place in places):
        raise refused(config.folder, f"has rows of tokens that {name} does not have")
    whole = weight.detach().float().clone()
    whole[list(places)] = rows.float().to(whole.device)
    return whole


def _has(module: nn.Module, name: str, kind: str, tensor: torch.Tensor) -> bool:
    """Whether the layer's own `weight` or `bias` is this one, in either's precision: nobody trained
    it."""
    layer = dict(module.named_modules()).get(name)
    weight = getattr(layer, kind, None)
    if not isinstance(weight, torch.Tensor) or weight.shape != tensor.shape:
        return False
    tensor = tensor.to(weight.device)
    return torch.equal(weight.to(tensor), tensor) or torch.equal(weight, tensor.to(weight))


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    found: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def _layer(
    config: LoraConfig, module: nn.Module, name: str, parts: dict[str, torch.Tensor]
) -> LoraLayer:
    folder = config.folder
    for what in config.misfits(name, parts):
        raise refused(folder, what)
    weight = _weight(config, module, name)
    a, b, bias = parts["A"], parts["B"], parts.get(BIAS)
    outputs, inputs = weight.shape
    rank = config.rank_of(name)
    if a.shape != (rank, inputs) or b.shape != (outputs, rank):
        wanted = f"{[rank, inputs]} and {[outputs, rank]}"
        text = f"has {[*a.shape]} and {[*b.shape]} for {name}, and this model takes {wanted}"
        raise refused(folder, f"{text}: it is of another model, or of another rank")
    for part in parts.keys() - {"A", "B"}:
        if parts[part].shape != (outputs,):
            text = f"has a {part} of {[*parts[part].shape]} for {name}, a layer of {outputs}"
            raise refused(folder, f"{text} outputs: it is of another model")
    scale = config.scale_of(name)
    layer = LoraLayer(a, b * scale, None if bias is None else bias * scale)
    magnitude = parts.get(MAGNITUDE)
    if magnitude is None:
        return layer
    lengths = torch.linalg.vector_norm(layer.merged(weight), dim=1)
    return replace(layer, gain=magnitude.to(lengths.device) / lengths)


def _weight(config: LoraConfig, module: nn.Module, name: str) -> torch.Tensor:
    """The layer's weight as [num_outputs, num_inputs]."""
    try:
        layer: Any = module.get_submodule(name)
    except AttributeError:
        text = f"has weights for {name}, which this model does not have"
        raise refused(config.folder, f"{text}: it is of another model, or of other names") from None
    if type(layer) is not nn.Linear and type(layer) is not Conv1D:
        text = f"has weights for {name}, a {type(layer).__name__}"
        raise refused(config.folder, f"{text}: linear layers of plain weights are served")
    if layer.weight.dtype not in _FLOATS or type(layer.weight) is not nn.Parameter:
        raise refused(config.folder, f"has weights for {name}, which is quantised")
    if any(layer.weight is other.weight for other in _embeddings(module)):
        raise refused(config.folder, f"has weights for {name}, which is tied to the embedding")
    weight: torch.Tensor = layer.weight
    return weight.t() if type(layer) is Conv1D else weight


def _embeddings(module: nn.Module) -> list[nn.Embedding]:
    return [part for part in module.modules() if isinstance(part, nn.Embedding)]


def _check_targets(config: LoraConfig, module: nn.Module, layers: dict[str, LoraLayer]) -> None:
    """Every layer that the config names must have its weights: else the file is not whole."""
    if config.target is None or config.target == "all-linear":
        return
    missing = [
        name
        for name, part in module.named_modules()
        if type(part) in (nn.Linear, Conv1D) and name not in layers and config.targets(name)
    ]
    if missing:
        text = f"lacks the weights of {counted(len(missing), 'layer')} that its target_modules name"
        raise refused(config.folder, f"{text}, the first is {missing[0]}")
