"""Gated MLPs in float8 on CUDA: gates and ups as one product, and one kernel between the products.

Recognised by what they do, not by names: a module of layers in float8 is run once with numbers of
our own where its layers answer, and what its last layer is then given says which activation it has.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from batchgen.causes import first_line
from batchgen.counts import counted
from batchgen.engine.failures import is_out_of_memory
from batchgen.engine.mixture.form import GELU, GELU_TANH, SILU, Gate
from batchgen.engine.quantization.float8 import round_rows
from batchgen.engine.quantization.float8_linear import Float8Linear

__all__ = ["GatedMlp", "find_gated_mlp", "replace_gated_mlps"]

_logger = logging.getLogger(__name__)
_GATES = (Gate(SILU), Gate(GELU), Gate(GELU_TANH))
_MOST_WIDTH = 32768
"""Of what lies between the products: a program of the kernel has it in registers."""
_ROWS = (1, 5, 150)
_LAYER_ERROR = 4e-2
"""Relative (L2): the module rounds to its dtype twice on the way, and what then lies between two
numbers of float8 falls to the other one."""
_KERNEL_ERROR = 2e-3
"""The same of what the kernel makes: exact but for a few numbers that lie in the middle."""


class GatedMlp(nn.Module):
    """down(f(gate(x)) * up(x))."""

    def __init__(self, gate_up: Float8Linear, down: Float8Linear, gate: Gate) -> None:
        """`gate_up` has all gates before all ups."""
        super().__init__()
        self.gate_up, self.down = gate_up, down
        self.gate = gate.text  # a string: see there

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> [..., hidden]."""
        from batchgen.engine.cuda.gated_kernel import gated_rows

        between = self.gate_up(x.reshape(-1, self.gate_up.in_features))
        values, scale = gated_rows(between, self.gate)
        return self.down.finish(self.down.multiply_rounded(values, scale), x.shape[:-1])


def replace_gated_mlps(module: Any) -> int:
    """In place, after the layers were proven; returns how many. A module that is not recognised or
    not proven stays as it is, and the log says so."""
    count, reasons = 0, {}
    known: set[tuple[Any, ...]] = set()
    for name, part in list(module.named_modules()):
        found = find_gated_mlp(part)
        if found is None:
            continue
        kind = (found.gate_up.in_features, found.gate_up.out_features, found.gate)
        reason = _disproof(found, part, _ROWS[: 1 if kind in known else None])
        known.add(kind)
        if reason is None:
            module.set_submodule(name, found)
            count += 1
        else:
            reasons[name] = reason
    if count:
        _logger.info("%s with one kernel between the products, proven", counted(count, "MLP"))
    if reasons:
        mlps, name = counted(len(reasons), "MLP"), min(reasons)
        _logger.info("%s as the compiler fuses them: %s: %s", mlps, name, reasons[name])
    return count


@torch.no_grad()
def find_gated_mlp(module: Any) -> GatedMlp | None:
    """What computes the same with the module's own weights; None where it is nothing known here."""
    layers = {name: part for name, part in module.named_children() if type(part) is Float8Linear}
    if len(layers) not in (2, 3) or not _is_bare(module, len(layers)):
        return None
    try:
        order, gate = _order(module, layers)
    except Exception:  # of a module that is something else altogether
        return None
    *first, down = (layers[name] for name in order)
    if gate is None or not _takes_rounded(down) or not all(first[0].alike(o) for o in first[1:]):
        return None
    return GatedMlp(first[0].join(first[1:]) if first[1:] else first[0], down, gate).eval()


def _is_bare(module: Any, num_layers: int) -> bool:
    """Nothing but the layers holds numbers, and nothing is bound or hooked."""
    parts = list(module.modules())
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    holders = [part for part in parts if part._parameters or part._buffers]
    return len(holders) == num_layers and not hooked and "forward" not in module.__dict__


def _takes_rounded(down: Float8Linear) -> bool:
    """Whether it rounds rows with a scale each, and such rows are not too wide."""
    return down.block is None and down.input_scale is None and down.in_features <= _MOST_WIDTH


def _order(module: Any, layers: Mapping[str, Float8Linear]) -> tuple[list[str], Gate | None]:
    """Names of the layers as they are called, and what happens before the last one."""
    x = torch.linspace(-1, 1, 3 * next(iter(layers.values())).in_features).view(1, 3, -1)
    with _answering(module, layers) as asked:
        out = module(x)
    order = [name for name, _, _ in asked]
    *first, (_, given, last) = asked
    if sorted(order) != sorted(layers) or out is not last:
        raise ValueError("layers are called otherwise")
    if not all(one is x for _, one, _ in first):
        raise ValueError("layers are asked otherwise")
    answers = torch.cat([answer for _, _, answer in first], dim=-1)
    for gate in _GATES:
        if torch.allclose(gate.apply(answers), given, rtol=1e-4, atol=1e-5):
            return order, gate
    swapped = torch.cat(answers.chunk(2, dim=-1)[::-1], dim=-1)
    for gate in _GATES:
        if len(first) == 2 and torch.allclose(gate.apply(swapped), given, rtol=1e-4, atol=1e-5):
            return [order[1], order[0], order[2]], gate
    return order, None


_Asked = list[tuple[str, torch.Tensor, torch.Tensor]]
"""Name of a layer, what it got, what was answered for it."""


@contextmanager
def _answering(module: Any, layers: Mapping[str, Float8Linear]) -> Iterator[_Asked]:
    """For the time being, numbers that differ from layer to layer come from where layers stood."""
    asked: _Asked = []

    class Answer(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            width = layers[self.name].out_features
            shift = 0.7 * len(asked)
            answer = 11 * torch.sin(torch.arange(3.0 * width) * (0.37 + shift) + shift)
            asked.append((self.name, x, answer.view(1, 3, width)))
            return asked[-1][2]

    try:
        for name in layers:
            module._modules[name] = Answer(name)
        yield asked
    finally:
        module._modules.update(layers)


@torch.no_grad()
def _disproof(ours: GatedMlp, module: Any, counts: tuple[int, ...]) -> str | None:
    """None, or what is wrong with our answers for so many rows."""
    from batchgen.engine.cuda.gated_kernel import gated_rows

    down, gate = ours.down, Gate.read(ours.gate)
    for count in counts:
        x = _rows(count, ours.gate_up.in_features, down)
        between = _rows(count, 2 * down.in_features, down)
        values, scale = round_rows(gate.apply(between.float()))
        try:
            made, its_scale = gated_rows(between, ours.gate)
            apart = _apart(made.float() * its_scale, values.float() * scale)
            if not apart <= _KERNEL_ERROR:  # NaN must not pass
                return f"between the products, {count} rows differ by {apart:.2g}"
            apart = _apart(ours(x), module(x))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Of Triton or its compiler: the module as it was will serve.
            return f"{type(error).__name__}: {first_line(error)}"
        if not apart <= _LAYER_ERROR:
            return f"{count} rows differ by {apart:.2g}"
    return None


def _rows(count: int, width: int, like: Float8Linear) -> torch.Tensor:
    """Some rows, small and large."""
    draw = torch.Generator().manual_seed(count)
    x = torch.randn(count, width, generator=draw) * torch.logspace(-1, 0.5, count)[:, None]
    return x.to(like.values.device, like.dtype)


def _apart(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    ours, wanted = ours.float(), wanted.float()
    return float((ours - wanted).norm() / wanted.norm().clamp_min(1e-20))
