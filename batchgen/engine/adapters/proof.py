"""The proof at load, for adapters: what a row gets equals a forward of the merged weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from batchgen.engine.adapters.lora import Lora, LoraLayer
from batchgen.engine.adapters.merging import merged_bias, merged_weight
from batchgen.engine.model.model import Model
from batchgen.engine.model.proof import allowed_error
from batchgen.engine.model.proof_logits import STEPS, compare, own_logits, worst_error
from batchgen.errors import ModelRefusedError

__all__ = ["check_merged", "expected_logits", "prove_adapters", "unmerged_logits"]


def expected_logits(module: nn.Module, lora: Lora, vocab_size: int) -> list[torch.Tensor]:
    """Logits of the proof's sequences, each adapted layer computing with its merged weight."""
    with _layers_as(module, lora, _merged):
        return own_logits(module, vocab_size)


def check_merged(
    module: nn.Module, lora: Lora, unmerged: Sequence[torch.Tensor], vocab_size: int
) -> None:
    """ModelRefusedError unless the merged module answers as the unmerged one with its products."""
    found = own_logits(module, vocab_size)
    _judge(lora.name, worst_error(found, unmerged), allowed_error(module))


def unmerged_logits(module: nn.Module, lora: Lora, vocab_size: int) -> list[torch.Tensor]:
    """Logits of the proof's sequences, each adapted layer adding what the adapter does."""
    with _layers_as(module, lora.placed(module), _added):
        return own_logits(module, vocab_size)


class _Chosen(Protocol):
    """What a proof asks of adapters that rows choose."""

    def use(self, names: Sequence[str], num_tokens: Sequence[int], device: torch.device) -> None:
        """Row i, of `num_tokens[i]` tokens, uses the adapter `names[i]`; "": none."""


def prove_adapters(
    model: Model, adapters: _Chosen, expected: dict[str, list[torch.Tensor]]
) -> None:
    """Each adapter alone, and two of them (or one and the base) side by side in a step.

    `expected`: adapter -> logits of the proof's two sequences; "": the base model's. Raises
    ModelRefusedError.
    """
    names = list(expected)
    for pair in [(name, name) for name in names] + list(pairwise(names)):
        wanted = [expected[name][place] for place, name in enumerate(pair)]

        def begin(step: Sequence[tuple[int, int, int]], pair: tuple[str, str] = pair) -> None:
            rows = [pair[sequence] for sequence, _, _ in step]
            adapters.use(rows, [stop - start for _, start, stop in step], model.device)

        try:
            worst = compare(model, wanted, STEPS, begin)
        except RuntimeError as error:
            text = f"adapters cannot be chosen row by row for this model: {error}"
            raise ModelRefusedError(text, "give one --adapter: it is merged") from error
        finally:
            adapters.use([], [], model.device)
        names_of_pair = " and ".join(name or "base" for name in dict.fromkeys(pair))
        _judge(names_of_pair, worst, allowed_error(model.module))


@contextmanager
def _layers_as(module: nn.Module, lora: Lora, forward: Any) -> Iterator[None]:
    handles = [
        module.get_submodule(name).register_forward_hook(forward(layer))
        for name, layer in lora.layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _merged(layer: LoraLayer) -> Any:
    def hook(part: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        weight = merged_weight(part, layer)
        if type(part) is Conv1D:
            weight = weight.t()
        return functional.linear(args[0], weight, merged_bias(part, layer))

    return hook


def _added(layer: LoraLayer) -> Any:
    return lambda part, args, output: layer.applied(args[0], output, part.bias)


def _judge(name: str, worst: float, allowed: float) -> None:
    if not worst <= allowed:  # NaN must not pass
        whose = f"adapter {name}" if name else "the adapter"
        raise ModelRefusedError(
            f"{whose}: its rows' logits differ from those of merged weights by {worst:.2g} "
            f"(relative), {allowed:.2g} is allowed",
            "merge it with peft (`merge_and_unload`) and name the merged model with --model",
        )
