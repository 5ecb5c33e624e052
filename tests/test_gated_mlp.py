"""A gated MLP in float8 is known by what it does; its kernel rounds what the definition says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.cuda import gated_mlp
from batchgen.engine.cuda.gated_mlp import GatedMlp, find_gated_mlp, replace_gated_mlps
from batchgen.engine.mixture.form import GELU, GELU_TANH, SILU, Gate
from batchgen.engine.quantization.float8 import round_blocks, round_rows, round_weight
from batchgen.engine.quantization.float8_linear import Float8Linear

DEVICE = "cpu" if INTERPRETED else "cuda"
HIDDEN, WIDTH = 64, 112


def linear(inputs: int, outputs: int, seed: int = 0, **more: Any) -> Float8Linear:
    draw = torch.Generator().manual_seed(seed)
    weight = round_weight(torch.randn(outputs, inputs, generator=draw) * 0.1)
    return Float8Linear(weight, more.get("bias"), torch.float16).eval()


class Mlp(nn.Module):
    def __init__(self, act: Any = nn.SiLU()) -> None:  # noqa: B008
        super().__init__()
        self.out = linear(WIDTH, HIDDEN, 1)
        self.act = act
        self.one, self.two = linear(HIDDEN, WIDTH, 2), linear(HIDDEN, WIDTH, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.act(self.one(x)) * self.two(x))


class UpsFirst(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.one(x) * self.act(self.two(x)))


class Halves(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.one = linear(HIDDEN, 2 * WIDTH, 4)
        del self.two

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.one(x).chunk(2, dim=-1)
        return self.out(up * self.act(gate))


class Scaled(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.act(self.one(x)) * self.two(x) * 1.01)


class Added(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class Normed(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.act(self.one(x)) * self.two(x / 2))


class Weighed(Mlp):
    def __init__(self) -> None:
        super().__init__(nn.PReLU())


def test_an_mlp_is_known_by_what_it_does() -> None:
    for module, function in (
        (Mlp(), SILU),
        (UpsFirst(), SILU),
        (Halves(), SILU),
        (Mlp(F.gelu), GELU),
        (Mlp(lambda x: F.gelu(x, approximate="tanh")), GELU_TANH),
    ):
        before = dict(module.named_children())
        found = find_gated_mlp(module)
        assert isinstance(found, GatedMlp)
        assert Gate.read(found.gate).function == function
        assert found.down is module.out
        assert dict(module.named_children()) == before
    ups_first = find_gated_mlp(UpsFirst())
    assert ups_first is not None
    assert torch.equal(ups_first.gate_up.values[:WIDTH].float(), Mlp().two.values.float())


def test_what_does_something_else_stays() -> None:
    for module in (Scaled(), Added(), Normed(), Weighed(), Mlp(F.relu), linear(64, 64)):
        assert find_gated_mlp(module) is None, type(module).__name__
    hooked = Mlp()
    hooked.two.register_forward_hook(lambda *_: None)
    bound = Mlp()
    bound.forward = bound.forward  # type: ignore[method-assign]
    fixed, blocks = Mlp(), Mlp()
    fixed.out.input_scale = nn.Parameter(torch.ones(()), requires_grad=False)
    weight = round_blocks(torch.randn(HIDDEN, 128), (128, 128))
    blocks.out = Float8Linear(weight, None, torch.float16)
    for module in (hooked, bound, fixed, blocks):
        assert find_gated_mlp(module) is None


@direct
@pytest.mark.parametrize("function", [SILU, GELU, GELU_TANH])
@pytest.mark.parametrize("size", [16, 144, 1000] if INTERPRETED else [144, 1000, 14336, 28672])
def test_what_lies_between_is_rounded_as_the_definition_says(function: int, size: int) -> None:
    from batchgen.engine.cuda.gated_kernel import gated_rows

    draw, gate = torch.Generator().manual_seed(size), Gate(function)
    x = torch.randn(7, 2 * size, generator=draw) * torch.logspace(-2, 1, 7)[:, None]
    x = x.to(DEVICE, torch.float16)
    x[1] = 0
    x[2, :size] = -200  # gates that are shut
    wanted = gate.apply(x.float())
    values, scale = round_rows(wanted)
    made, its_scale = gated_rows(x, gate.text)
    assert torch.allclose(its_scale, scale, rtol=1e-5, atol=1e-12)
    apart = (made.float() * its_scale - values.float() * scale).norm(dim=1)
    assert bool((apart <= 2e-3 * wanted.norm(dim=1) + 1e-9).all())
    assert not made[1].float().any()
    padded = torch.full((7, 3 * size + 16), 1e4, dtype=x.dtype, device=DEVICE)
    padded[:, : 2 * size] = x
    again = gated_rows(padded[:, : 2 * size], gate.text)
    assert torch.equal(again[0].float(), made.float())
    x[3, 5] = float("nan")
    assert gated_rows(x, gate.text)[1].isnan().flatten().tolist() == [n == 3 for n in range(7)]


@direct
def test_a_module_is_replaced_where_that_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchgen.engine.quantization.round_kernel import round_rows_on_gpu

    if INTERPRETED:
        monkeypatch.setattr(gated_mlp, "round_rows", round_rows_on_gpu)
        monkeypatch.setattr(gated_mlp, "_ROWS", (1, 5))
    holder = nn.ModuleList([Mlp(), Halves(), Scaled(), nn.ModuleDict({"inner": Mlp(F.gelu)})])
    holder = holder.to(DEVICE)
    for part in holder.modules():
        if isinstance(part, Float8Linear):
            part.product = "triton"
    x = torch.randn(2, 3, HIDDEN).to(DEVICE, torch.float16)
    parts = [holder[0], holder[1], holder[3]["inner"]]
    wanted = [part(x) for part in parts]
    assert replace_gated_mlps(holder) == 3
    assert isinstance(holder[2], Scaled)
    for part, answer in zip([holder[0], holder[1], holder[3]["inner"]], wanted, strict=True):
        assert isinstance(part, GatedMlp)
        ours = part(x)
        assert ours.shape == answer.shape
        assert float((ours - answer).float().norm() / answer.float().norm()) < 4e-2


@direct
def test_a_kernel_that_is_wrong_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchgen.engine.cuda import gated_kernel

    right = gated_kernel.gated_rows

    def wrong(x: torch.Tensor, gate: str) -> tuple[torch.Tensor, torch.Tensor]:
        values, scale = right(x, gate)
        return values, scale * 1.01

    monkeypatch.setattr(gated_kernel, "gated_rows", wrong)
    holder = nn.ModuleList([Mlp()]).to(DEVICE)
    holder[0].out.product = "triton"
    assert replace_gated_mlps(holder) == 0
    assert isinstance(holder[0], Mlp)
