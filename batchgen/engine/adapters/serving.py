"""Several adapters in one packed step: each token's layers add the product of its row's adapter.

A hook on each layer that any adapter names adds the products after the layer's own; rows of one
adapter are gathered and multiplied together. A step whose rows use none runs as without adapters.
Nothing here is captured in a graph or compiled; what is, on a GPU, is `grouped.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from batchgen.engine.adapters.lora import Lora
from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["AdapterSet"]

_Group = tuple[Lora, torch.Tensor | None]
"""An adapter and its tokens' places in the row, int64 [num]; None: all of them."""


class AdapterSet:
    """The adapters of one model, and which of them the step under way uses."""

    in_graphs: ClassVar = False
    """Whether layers may be compiled and steps captured."""

    def __init__(self, module: nn.Module, adapters: Sequence[Lora]) -> None:
        self._adapters = {lora.name: lora for lora in adapters}
        self._groups: list[_Group] = []
        self._num_tokens = 0
        self._handles: list[RemovableHandle] = []
        self.layers = {name for lora in adapters for name in lora.layers}
        self.hook(module)

    def hook(self, module: nn.Module) -> None:
        """Have the layers add the products."""
        for name in sorted(self.layers):
            layer = module.get_submodule(name)
            self._handles.append(layer.register_forward_hook(_Hook(self, name)))

    def unhook(self) -> None:
        """Leave the layers as they were."""
        while self._handles:
            self._handles.pop().remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> AdapterSet:
        """Copies of the module (for proofs) share it: they run one at a time."""
        return self

    @property
    def names(self) -> list[str]:
        """In the order given."""
        return list(self._adapters)

    @property
    def loras(self) -> list[Lora]:
        """In the order given."""
        return list(self._adapters.values())

    def begin(self, step: ScheduledStep, device: torch.device) -> None:
        """Take note of a step's rows before its forward."""
        names = [sequence.request.params.adapter for sequence in step.sequences]
        self.use(names, step.num_tokens, device)

    def use(self, names: Sequence[str], num_tokens: Sequence[int], device: torch.device) -> None:
        """Row i, of `num_tokens[i]` tokens, uses the adapter `names[i]`; "": none."""
        self._num_tokens = sum(num_tokens)
        self._groups = []
        used = sorted(set(names) - {""})
        if used and len(set(names)) == 1:
            self._groups = [(self._adapters[used[0]], None)]
            return
        for name in used:
            places: list[int] = []
            start = 0
            for own, count in zip(names, num_tokens, strict=True):
                if own == name:
                    places += range(start, start + count)
                start += count
            group = torch.tensor(places, device=device)
            self._groups.append((self._adapters[name], group))

    def add(
        self, layer: str, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """y [1, num_tokens, num_outputs], or without the 1 as some models flatten tokens before
        it: the layer's own outputs for x, with `bias` in them, adapted."""
        if not self._groups:
            return y
        if x.shape[:-1] not in ((1, self._num_tokens), (self._num_tokens,)):
            raise RuntimeError(f"{layer} is not called with every token of a step, in order")
        for lora, places in self._groups:
            own = lora.layers.get(layer)
            if own is None:
                continue
            if places is None:
                y = own.applied(x, y, bias)
            elif own.gain is None:
                y = y.index_add(-2, places, own.product(x[..., places, :]))
            else:
                found = own.applied(x[..., places, :], y[..., places, :], bias)
                y = y.index_copy(-2, places, found)
        return y


class _Hook:
    """After one layer's forward. It refers to the set, which all copies of a module share."""

    def __init__(self, adapters: AdapterSet, layer: str) -> None:
        self._adapters = adapters
        self._layer = layer

    def __call__(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return self._adapters.add(self._layer, args[0], output, module.bias)
