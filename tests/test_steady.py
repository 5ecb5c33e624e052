"""Promise: with --deterministic a row's logits are bit for bit its own, whatever its steps hold."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from steady_rows import answers, random_case
from tiny_models import tiny_model

from batchgen.engine.attention.cpu.paged import CpuAttention
from batchgen.engine.config import Adapter, EngineConfig
from batchgen.engine.cpu.linear import PackedLinear, pack_steady
from batchgen.engine.cpu.optimize import optimize_for_cpu
from batchgen.engine.kernels.build import load_kernels
from batchgen.engine.kernels.ops import Operators
from batchgen.engine.model.model import Model
from batchgen.engine.parallel.splitting import check_flags
from batchgen.engine.run.loader import load_model_from
from batchgen.engine.steady.checks import check_parts, check_settings, prove_steady
from batchgen.errors import ModelRefusedError, UsageError

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
DTYPES = [torch.float32, torch.bfloat16]
BUDGET = 12
"""Cases in which a planted dependence is to be found."""


@cache
def load(model_type: str, dtype: torch.dtype) -> Model:
    module = tiny_model(model_type).to(dtype)
    optimize = partial(optimize_for_cpu, dtype=dtype, steady=True)
    return load_model_from(module, optimize=optimize)


@pytest.fixture
def split_by_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of the head that are cut in two where a step asks it for more than two rows."""
    whole = PackedLinear.__call__

    def call(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        if x.numel() // x.shape[-1] <= 2:
            return whole(self, x)
        front = x.clone()
        front[..., self.num_inputs // 2 :] = 0
        return whole(self, front) + whole(self, x - front)

    monkeypatch.setattr(PackedLinear, "__call__", call)


def holds(dtype: torch.dtype, seed: int) -> int:
    """The rows of a random case answer as each does alone; how often they were preempted."""
    case, model = random_case(random.Random(seed)), load("llama", dtype)
    together, preemptions = answers(model, case.rows, **case.settings)
    alone = {}
    for row, prompt in case.rows.items():
        alone |= answers(model, {row: prompt}, enable_prefix_caching=False)[0]
    assert together == alone
    return preemptions


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_batch_chunks_prefixes_and_preemptions_give_the_same_bits(dtype: torch.dtype) -> None:
    assert sum(holds(dtype, seed) for seed in range(BUDGET)) > 0  # some were preempted


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_split_that_depends_on_the_batch_is_found(
    dtype: torch.dtype, split_by_the_batch: None
) -> None:
    with pytest.raises(AssertionError):
        assert [holds(dtype, seed) for seed in range(BUDGET)]
    with pytest.raises(ModelRefusedError, match=r"a row computed .* has other logits than alone"):
        prove_steady(load("llama", dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2", "phi3"])
def test_a_model_of_steady_parts_is_proven_at_load(model_type: str, dtype: torch.dtype) -> None:
    model = load(model_type, dtype)
    check_parts(model)
    assert "bit for bit" in prove_steady(model)


@pytest.mark.parametrize(
    ("model_type", "dtype", "part"),
    [
        ("mixtral", torch.float32, r"model\.layers\.0\.mlp\.experts: "),
        ("gpt_neox", torch.float32, r"layers\.0\.mlp\.act: gelu"),
        ("llama", torch.float16, r"lm_head: linear"),
    ],
)
def test_a_part_that_depends_on_the_step_is_refused_by_name(
    model_type: str, dtype: torch.dtype, part: str
) -> None:
    with pytest.raises(ModelRefusedError) as refused:
        check_parts(load(model_type, dtype))
    assert re.search(part, str(refused.value), re.DOTALL)


def test_attention_that_reads_keys_for_several_rows_at_once_is_refused() -> None:
    backend: Any = SimpleNamespace(shares=True)
    with pytest.raises(ModelRefusedError, match=r"attention: keys read for several rows"):
        check_parts(replace(load("llama", torch.bfloat16), backend=backend))


def test_without_c_kernels_the_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operators, "load", staticmethod(lambda: None))
    module = tiny_model("llama")
    optimize = partial(optimize_for_cpu, dtype=torch.float32, steady=True)
    model = load_model_from(module, CpuAttention(use_kernel=False), optimize=optimize)
    with pytest.raises(ModelRefusedError, match=r"lm_head: linear"):
        check_parts(model)


def test_blocks_of_a_size_that_the_kernels_do_not_take_are_refused() -> None:
    with pytest.raises(ModelRefusedError, match="self_attn") as refused:
        check_parts(load("llama", torch.float32), block_size=8)
    assert "--block-size that is a multiple of 16" in str(refused.value.hint)


def test_rows_that_choose_adapters_and_split_models_are_refused() -> None:
    adapter = Adapter("a", Path("a"), Path("a/w"))
    with pytest.raises(UsageError, match="choose among adapters"):
        check_settings(EngineConfig(Path("m"), adapters=(adapter,), deterministic=True))
    with pytest.raises(UsageError, match="does not go with --deterministic"):
        check_flags(EngineConfig(Path("m"), tensor_parallel=2, deterministic=True))


@pytest.mark.parametrize("num_inputs", [5, 64, 200, 577])
def test_bfloat16_products_sum_in_one_order_for_any_rows(num_inputs: int) -> None:
    generator = torch.Generator().manual_seed(num_inputs)
    weight = torch.randn(50, num_inputs, generator=generator).bfloat16()
    bias = torch.randn(50, generator=generator).bfloat16()
    linear = pack_steady(weight, bias)
    assert linear is not None
    x = torch.randn(210, num_inputs, generator=generator).bfloat16()
    whole = linear(x)
    exact = x.double() @ weight.double().T + bias.double()
    assert (whole.double() - exact).abs().max() <= 2**-7 * exact.abs().max()
    for first, last in [(0, 1), (5, 7), (3, 9), (20, 27), (90, 187), (0, 97)]:
        assert torch.equal(linear(x[first:last]), whole[first:last])
