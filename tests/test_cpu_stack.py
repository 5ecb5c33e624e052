"""Promise: layers that run as one answer as they do one by one; odd layers run one by one."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch
from tiny_models import THOROUGH, answer_among, runs_as_one, tiny_model
from torch.nn import functional as F

from batchgen.cli.process.threads import settle_waiting
from batchgen.engine.cpu import linear as cpu_linear
from batchgen.engine.cpu import stack as cpu_stack
from batchgen.engine.cpu.optimize import optimize_for_cpu
from batchgen.engine.kernels.build import load_kernels
from batchgen.engine.kernels.ops import Operators
from batchgen.engine.model.model import Model
from batchgen.engine.model.proof_logits import logits_at
from batchgen.engine.run.loader import load_model_from

LLAMA_SHAPED = ("llama", "mistral", "qwen2", "qwen3")
needs_compiler = pytest.mark.skipif(load_kernels() is None, reason="no C compiler")


def load(
    model_type: str, dtype: torch.dtype = torch.float32, quantization: str | None = None
) -> Model:
    module = tiny_model(model_type).to(dtype)
    optimize = partial(optimize_for_cpu, dtype=dtype, quantization=quantization)
    return load_model_from(module, optimize=optimize, confirmed=quantization is None)


def has_int8_kernel() -> bool:
    operators = Operators.load()
    return operators is not None and operators.can_pack_int8(1)


def without_stack(
    model_type: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    quantization: str | None = None,
) -> Model:
    with monkeypatch.context() as patch:
        patch.setattr(cpu_stack, "_make_stack", lambda model: None)
        return load(model_type, dtype, quantization)


@needs_compiler
@pytest.mark.parametrize("model_type", LLAMA_SHAPED)
def test_ragged_steps_answer_as_layer_by_layer(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(model_type)
    plain = without_stack(model_type, torch.float32, monkeypatch)
    assert runs_as_one(model)
    assert not runs_as_one(plain)
    got, expected = (logits_at(one) for one in (model, plain))
    assert (got - expected).abs().max() <= 2e-5 * expected.abs().max()


@needs_compiler
@pytest.mark.parametrize("model_type", LLAMA_SHAPED)
def test_bfloat16_stays_near_layer_by_layer(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(model_type, torch.bfloat16)
    plain = without_stack(model_type, torch.bfloat16, monkeypatch)
    got, expected = (logits_at(one) for one in (model, plain))
    assert (got - expected).norm() <= 0.03 * expected.norm()


@pytest.mark.skipif(not has_int8_kernel(), reason="no 8-bit product here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("model_type", "scheme"), [("llama", "int8"), ("qwen3", "int8"), ("llama", "q4")]
)
def test_rounded_weights_run_as_one_as_they_do_layer_by_layer(
    model_type: str, scheme: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(model_type, dtype, scheme)
    plain = without_stack(model_type, dtype, monkeypatch, scheme)
    assert runs_as_one(model)
    assert not runs_as_one(plain)
    got, expected, exact = (logits_at(one) for one in (model, plain, load(model_type)))
    bound = 1e-3 if dtype == torch.float32 else 0.03
    assert (got - expected).norm() <= bound * expected.norm()
    assert 0 < (got - exact).norm() <= {"int8": 0.05, "q4": 0.6}[scheme] * exact.norm()


@needs_compiler
@pytest.mark.parametrize("quantization", [None, "int8", "q4"])
def test_a_row_answers_bit_for_bit_alike_whatever_comes_along(quantization: str | None) -> None:
    model = load("llama", quantization=quantization)
    model.allocate_cache(64, 16)
    alone = answer_among(model, 1)
    assert all(torch.equal(answer_among(model, count), alone) for count in (2, 3, 9, 20))


@needs_compiler
@pytest.mark.parametrize("model_type", sorted({*THOROUGH} - set(LLAMA_SHAPED)))
def test_other_architectures_load_and_answer(model_type: str) -> None:
    """Compared with the model's own logits at load: refused otherwise. Those that are checked once
    have `generate`'s tokens: see test_parity."""
    load(model_type)


@needs_compiler
def test_a_wrong_stack_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = cpu_stack.LayerStack.__call__
    monkeypatch.setattr(
        cpu_stack.LayerStack, "__call__", lambda self, *args: original(self, *args) * 1.01
    )
    monkeypatch.setitem(cpu_stack._TOLERANCE, torch.float32, (0.0, 0.0))
    model = load("llama")
    assert not runs_as_one(model)


def test_without_kernels_the_layers_run_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operators, "load", staticmethod(lambda: None))
    assert not runs_as_one(load("llama"))


@needs_compiler
def test_where_onednn_multiplies_bfloat16_faster_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operators, "is_fastest", lambda self, dtype: False)
    monkeypatch.setattr(
        cpu_linear, "_onednn", lambda weight, bias: lambda x: F.linear(x, weight, bias)
    )
    assert not runs_as_one(load("llama", torch.bfloat16))


def test_the_command_bounds_how_long_threads_spin_unless_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    settle_waiting()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    settle_waiting()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
    monkeypatch.delenv("GOMP_SPINCOUNT")
