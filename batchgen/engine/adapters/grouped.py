"""Several adapters within compiled layers and CUDA graphs: one operator after each adapted layer.

All adapters' halves of a layer lie in one tensor each, padded with zeros to the largest rank, and
the device finds out which tokens have which adapter, once a step: shapes are those of the worst
case, so a captured step may be replayed with any other choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
import triton
from torch import nn
from transformers.pytorch_utils import Conv1D

from batchgen.engine.adapters.kernels import LEAST_RANK, add_products, tile_rows
from batchgen.engine.adapters.lora import Lora, LoraLayer
from batchgen.engine.mixture.sorting import Sorted, sort_pairs
from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["GroupedAdapters"]

_NONE = -1
"""In place of an adapter's number."""


class GroupedAdapters:
    """The adapters of one model on a GPU, and which tokens of the step under way use which."""

    in_graphs: ClassVar = True
    """Whether layers may be compiled and steps captured."""

    def __init__(self, module: nn.Module, adapters: Sequence[Lora]) -> None:
        """Takes the place of `AdapterSet`: swaps the adapted layers' classes, `let_go` swaps them
        back. Every layer must be one of `_ADAPTED`."""
        self._number_of = {lora.name: number for number, lora in enumerate(adapters)} | {"": _NONE}
        self._tokens: Sorted | None = None
        self._rows = 0
        key = max(_sets, default=-1) + 1
        _sets[key] = self
        handle = torch.tensor(key)  # int64 [], on the host: reading it waits for nothing
        names = sorted({name for lora in adapters for name in lora.layers})
        self._layers: list[Any] = [module.get_submodule(name) for name in names]
        for name, layer in zip(names, self._layers, strict=True):
            a, b = _stacked([lora.layers.get(name) for lora in adapters])
            layer.register_buffer("lora_a", a, persistent=False)
            layer.register_buffer("lora_b", b, persistent=False)
            layer.adapters = handle
            layer.__class__ = _ADAPTED[type(layer)]

    @staticmethod
    def can_hold(module: nn.Module, names: Sequence[str]) -> bool:
        """Whether these layers are what can be swapped."""
        return all(type(module.get_submodule(name)) in _ADAPTED for name in names)

    def let_go(self) -> None:
        """Leave the layers as they were."""
        for layer in self._layers:
            layer.__class__ = _PLAIN[type(layer)]
            del layer.lora_a, layer.lora_b, layer.adapters

    @property
    def names(self) -> list[str]:
        """In the order given."""
        return [name for name in self._number_of if name]

    def numbers(self, step: ScheduledStep) -> list[int]:
        """The adapter of each of a step's rows; -1: none."""
        return [self._number_of[sequence.request.params.adapter] for sequence in step.sequences]

    def use(self, names: Sequence[str], num_tokens: Sequence[int], device: torch.device) -> None:
        """Row i, of `num_tokens[i]` tokens, uses the adapter `names[i]`; "": none."""
        numbers = torch.tensor([self._number_of[name] for name in names], dtype=torch.int32)
        ends = torch.tensor(num_tokens, dtype=torch.int32).cumsum(0, dtype=torch.int32)
        self.route(numbers.to(device), ends.to(device), sum(num_tokens))

    def route(self, numbers: torch.Tensor, ends: torch.Tensor, num_tokens: int) -> None:
        """Before a forward of `num_tokens` tokens, padding included. Only launches: is captured.

        numbers, ends: int32 [num_seqs], a sequence's adapter and where its tokens end.
        """
        self._tokens = None
        if not num_tokens:
            return
        tokens = torch.arange(num_tokens, dtype=torch.int32, device=numbers.device)
        row = torch.searchsorted(ends, tokens, right=True)
        chosen = torch.where(row < len(ends), numbers[row.clamp_max(len(ends) - 1)], _NONE)
        self._rows = tile_rows(num_tokens)
        self._tokens = sort_pairs(chosen[:, None], len(self._number_of) - 1, self._rows)

    def add(self, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
        """y [.., num_outputs], a layer's own, gets the products of x [.., num_inputs]."""
        tokens = self._tokens
        if tokens is None:  # no step, but a trial of the base model
            return
        if x.numel() != len(tokens.order) * x.shape[-1]:
            raise RuntimeError(
                "an adapted layer is not called with every token of a step, in order"
            )
        add_products(x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1]), a, b, tokens, self._rows)


_sets: WeakValueDictionary[int, GroupedAdapters] = WeakValueDictionary()
"""The operator gets tensors alone, so this is how it finds its adapters again."""


@torch.library.custom_op("batchgen::add_adapters", mutates_args=("y",))
def _add_adapters(
    x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, adapters: torch.Tensor
) -> None:
    _sets[int(adapters)].add(x, y, a, b)


@_add_adapters.register_fake
def _(
    x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, adapters: torch.Tensor
) -> None:
    """Nothing comes out."""


class _Adapted:
    """In front of a layer's own class."""

    lora_a: torch.Tensor  # [num_adapters, rank, num_inputs]
    lora_b: torch.Tensor  # [num_adapters, num_outputs, rank]
    adapters: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = super().forward(x)  # type: ignore[misc]
        _add_adapters(x, y, self.lora_a, self.lora_b, self.adapters)
        return y


class _AdaptedLinear(_Adapted, nn.Linear):
    pass


class _AdaptedConv1D(_Adapted, Conv1D):
    pass


_ADAPTED: dict[type, type] = {nn.Linear: _AdaptedLinear, Conv1D: _AdaptedConv1D}
_PLAIN = {adapted: plain for plain, adapted in _ADAPTED.items()}


def _stacked(layers: Sequence[LoraLayer | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """[num_adapters, rank, num_inputs] and [num_adapters, num_outputs, rank]; zeros where an
    adapter has nothing for the layer, or a smaller rank."""
    own = [layer for layer in layers if layer is not None]
    rank = triton.next_power_of_2(max(LEAST_RANK, *(len(layer.a) for layer in own)))
    a = own[0].a.new_zeros(len(layers), rank, own[0].a.shape[1])
    b = own[0].b.new_zeros(len(layers), own[0].b.shape[0], rank)
    for number, layer in enumerate(layers):
        if layer is not None:
            a[number, : len(layer.a)] = layer.a
            b[number, :, : len(layer.a)] = layer.b
    return a, b
