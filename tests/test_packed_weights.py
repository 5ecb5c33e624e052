"""Promise: products with weights in a GGUF file's blocks are those of the dequantised weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from packed_oracle import KINDS, dense, expected, random_blocks

from batchgen.engine.kernels.build import load_kernels
from batchgen.engine.kernels.quant import QuantKernels
from batchgen.engine.packed import weight as packed_weight
from batchgen.engine.packed.product import PackedProduct, join_products
from batchgen.engine.packed.quantizing import dense_blocks, round_to_blocks
from batchgen.engine.packed.weight import PackedWeight, pack_rows

gguf = pytest.importorskip("gguf")
needs_compiler = pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def pack(raw: Any, kind: int, num_inputs: int) -> PackedWeight:
    return pack_rows(raw, np.arange(len(raw)), kind, num_inputs)


def rows(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(count))


@needs_compiler
@every_kind
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(1, 256), (37, 768), (160, 512)])
def test_any_number_of_rows_is_the_oracles(kind: int, num_outputs: int, num_inputs: int) -> None:
    raw = random_blocks(kind, num_outputs, num_inputs)
    product = PackedProduct([pack(raw, kind, num_inputs)], None)
    assert product.kernels is not None
    x = rows(70, num_inputs)
    wanted = expected(x, raw, kind)
    everything = product(x)
    assert (everything - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    for count in range(1, 70):  # a row's answer is its own, bit for bit
        assert torch.equal(product(x[:count]), everything[:count])


@needs_compiler
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("num_inputs", [32, 96, 576])
def test_blocks_of_32_need_no_more_than_whole_blocks(name: str, num_inputs: int) -> None:
    raw = random_blocks(KINDS[name], 50, num_inputs)
    product = PackedProduct([pack(raw, KINDS[name], num_inputs)], None)
    x = rows(9, num_inputs)
    wanted = expected(x, raw, KINDS[name])
    assert (product(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@needs_compiler
@every_kind
def test_it_takes_the_memory_of_the_file(kind: int) -> None:
    raw = random_blocks(kind, 160, 1024)
    assert pack(raw, kind, 1024).data.nbytes <= 1.03 * raw.nbytes


@every_kind
@pytest.mark.parametrize("compiled", [True, False])
def test_rows_are_the_packages_own_values(
    kind: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(QuantKernels, "load", staticmethod(lambda: None))
    raw = random_blocks(kind, 40, 512)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1)).numpy()
    packed = pack_rows(raw, order, kind, 512)
    ids = torch.tensor([[3, 39], [0, 3]])
    wanted = dense(raw, kind)[order][ids]
    assert torch.equal(packed.rows(ids, torch.float32), wanted)
    assert torch.equal(packed.rows(ids, torch.bfloat16), wanted.bfloat16())
    with pytest.raises(IndexError):
        packed.rows(torch.tensor([40]), torch.float32)


@needs_compiler
@every_kind
def test_without_a_compiler_the_answers_are_the_same(
    kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, x = random_blocks(kind, 40, 512), rows(6, 512)
    fast = PackedProduct([pack(raw, kind, 512)], torch.arange(40.0))
    monkeypatch.setattr(QuantKernels, "load", staticmethod(lambda: None))
    slow = PackedProduct([pack(raw, kind, 512)], torch.arange(40.0))
    assert slow.kernels is None
    assert (fast(x) - slow(x)).abs().max() <= 1e-5 * fast(x).abs().max()


@needs_compiler
def test_types_and_biases_mix_in_one_product() -> None:
    raws = {kind: random_blocks(kind, 24 + kind, 512) for kind in KINDS.values()}
    products = [
        PackedProduct([pack(raw, kind, 512)], torch.ones(len(raw)) if kind % 2 else None)
        for kind, raw in raws.items()
    ]
    joined, x = join_products(products), rows(33, 512)
    assert torch.equal(joined(x), torch.cat([product(x) for product in products], dim=-1))


@needs_compiler
@every_kind
def test_bfloat16_rows_are_rounded_from_their_own_values(kind: int) -> None:
    raw, x = random_blocks(kind, 40, 512), rows(5, 512).bfloat16()
    product = PackedProduct([pack(raw, kind, 512)], None)
    assert product(x).dtype == torch.bfloat16
    assert torch.equal(product(x), product(x.float()).bfloat16())


@needs_compiler
@every_kind
def test_odd_numbers_stay_in_their_row(kind: int) -> None:
    raw, x = random_blocks(kind, 40, 512), rows(5, 512)
    product = PackedProduct([pack(raw, kind, 512)], None)
    odd = x.clone()
    odd[1, 7], odd[2, 300], odd[3] = torch.nan, torch.inf, 1e-38
    got = product(odd)
    assert got[1:3].isnan().all()
    assert got[3].abs().max() < 1e-30
    assert torch.equal(got[[0, 4]], product(x)[[0, 4]])
    assert torch.equal(product(torch.zeros(1, 512)), torch.zeros(1, 40))


@needs_compiler
def test_a_kernel_that_answers_wrongly_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    multiply = QuantKernels.multiply
    monkeypatch.setattr(QuantKernels, "multiply", lambda *a: multiply(*a) * 1.01)
    packed_weight._is_proven.cache_clear()
    try:
        raw = random_blocks(3, 40, 512)
        product = PackedProduct([pack(raw, 3, 512)], None)
    finally:
        packed_weight._is_proven.cache_clear()
    assert product.kernels is None
    assert "answers wrongly" in caplog.text
    x = rows(3, 512)
    assert (product(x) - expected(x, raw, 3)).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["Q4_1", "Q8_0"])
def test_dense_weights_become_blocks_that_the_package_reads(name: str) -> None:
    weight = torch.randn(30, 96, generator=torch.Generator().manual_seed(0)) * 0.02
    weight[3], weight[4], weight[5, :32] = 0.0, 0.5, 1e-9
    raw = round_to_blocks(weight, KINDS[name])
    values = dense(raw.numpy(), KINDS[name])
    assert torch.equal(dense_blocks(raw, KINDS[name]), values)
    assert torch.allclose(values[3:5], weight[3:5], rtol=1e-3)
    package = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType(KINDS[name]))
    error, others = ((v - weight).norm() for v in (values, dense(package, KINDS[name])))
    assert error <= (0.95 if name == "Q4_1" else 1.01) * others
