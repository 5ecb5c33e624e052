"""The Triton products of float8 and 4-bit weights are what their definitions say, odd sizes too; a
model whose layers stay packed answers as the dequantised one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_folders import save_quantized
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.checkpoint import packed_folder
from batchgen.engine.config import EngineConfig
from batchgen.engine.quantization.float8 import E4M3, Float8, round_blocks, round_rows, round_weight
from batchgen.engine.quantization.integers import round_to_integers
from batchgen.engine.quantization.packing import pack_codes, pack_steps, run_of

pytest.importorskip("triton", reason="triton is not installed: no products to test")

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
"""The interpreter multiplies bfloat16 as if its bits were integers."""
FLOAT8_SIZES = [(5, 80, 144), (33, 48, 272)]
SIZES = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "head_dim": 16}
BLOCK_SIZES = [(3, 150, 256)]
INTEGER_SIZES = [(1, 80, 256, 128), (18, 72, 192, 64), (3, 40, 192, 32), (2, 64, 128, 128)]
INTEGER_SIZES += [(5, 48, 1024, 32), (3, 33, 320, 16)]  # sums in several parts
if not INTERPRETED:
    FLOAT8_SIZES += [(m, n, k) for m in (1, 16, 200, 2048) for n, k in ((6144, 4096), (576, 1536))]
    BLOCK_SIZES += [(m, n, 7168) for m in (1, 64, 333, 2048) for n in (512, 1536, 2112)]
    INTEGER_SIZES += [
        (m, n, k, g)
        for m in (1, 17, 64, 130, 256, 700, 1023, 1024, 2000)
        for n, k, g in ((4096, 4096, 128), (6144, 4096, 64), (576, 1536, 32))
    ]
    INTEGER_SIZES += [(256, 4096, 14336, 128), (64, 28672, 4096, 128), (30, 1000, 512, 512)]


def error(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((ours.detach().float() - wanted).norm() / wanted.norm())


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


@direct
def test_rows_that_fit_are_rounded_to_themselves_and_nan_stays() -> None:
    from batchgen.engine.quantization.round_kernel import round_rows_on_gpu

    exact = draw(4, 80).clamp(-2, 2).to(E4M3).float()
    exact[:, 0] = 448
    exact[3] = 0
    values, scale = round_rows_on_gpu(
        exact * torch.tensor([1, 2.0**-9, 64, 1], device=DEVICE)[:, None]
    )
    assert torch.equal(values.float(), exact)
    assert scale[:3].flatten().tolist() == [1, 2.0**-9, 64]
    exact[1, 7] = float("nan")
    values, scale = round_rows_on_gpu(exact)
    assert scale.isnan().flatten().tolist() == [False, True, False, False]
    if not INTERPRETED:  # whose rounding to float8 is not to the nearest
        x = draw(300, 4096, dtype=torch.bfloat16)
        ours, theirs = round_rows_on_gpu(x), round_rows(x)
        assert torch.equal(ours[0].float(), theirs[0].float())
        assert torch.equal(ours[1], theirs[1])


@direct
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), FLOAT8_SIZES)
def test_a_product_of_float8(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    from batchgen.engine.quantization.float8_kernel import multiply_float8

    weight = round_weight(draw(outputs, inputs) * 0.1)
    values, scale = round_rows(draw(rows, inputs, dtype=dtype))
    ours = multiply_float8(values, scale, weight.values, weight.scale, dtype, False)
    assert error(ours, (values.float() * scale) @ weight.dense(torch.float32).T) < 5e-3


@direct
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), BLOCK_SIZES)
def test_a_product_of_blocks(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    from batchgen.engine.quantization.float8_kernel import multiply_float8

    plain = draw(outputs, inputs)
    plain[:, :128] *= 30  # blocks that differ
    weight: Float8 = round_blocks(plain, (128, 128))
    values, scale = round_rows((draw(rows, inputs) * 3).view(-1, 128))
    x = (values.float() * scale).view(rows, inputs)
    parts = values.view(rows, inputs), scale.view(rows, -1), weight.values, weight.scale, dtype
    for own in (False,) if INTERPRETED else (False, True):  # torch's own, where it has one
        ours = multiply_float8(*parts, own)
        assert ours.shape == (rows, outputs)
        assert error(ours, x @ weight.dense(torch.float32).T) < 5e-3


@direct
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "outputs", "inputs", "group"), INTEGER_SIZES)
def test_a_product_of_4_bit_weights(
    rows: int, outputs: int, inputs: int, group: int, dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from batchgen.engine.quantization import integer_kernel

    weight = round_to_integers(draw(outputs, inputs, dtype=dtype) * 0.1, group)
    run = run_of(inputs, group)
    assert run is not None
    parts = pack_codes(weight.codes, run), pack_steps(weight.scales, weight.zeros, dtype), run
    x = draw(rows, inputs, dtype=dtype)
    wanted = x.float() @ weight.dense(dtype).float().T
    assert error(integer_kernel.multiply_integers(x, *parts), wanted) < 5e-3
    for dense_rows in (rows + 1, rows):
        monkeypatch.setattr(integer_kernel, "_DENSE_ROWS", dense_rows)
        assert error(integer_kernel.multiply_integers(x, *parts, False), wanted) < 5e-3


@direct
@pytest.mark.skipif(not INTERPRETED, reason="on a GPU: test_quantized_gpu.py")
@pytest.mark.parametrize("name", ["gptq act-order", "awq"])
def test_packed_layers_answer_as_the_dense_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way that a GPU goes: kept, proven, joined; scales are in float16 there."""
    from batchgen.engine.checkpoint.folder import load_folder
    from batchgen.engine.cpu.joined_linear import join_linears
    from batchgen.engine.quantization.proof import settle_layers

    monkeypatch.setattr(packed_folder, "_can_keep", lambda *_: True)
    dense = save_quantized(tmp_path, name, **SIZES)
    config = EngineConfig(model=tmp_path, device="cpu", dtype="float32")
    module, found = load_folder(described(tmp_path), torch.float32, config, torch.device("cpu"))
    assert found is not None
    assert (found.kept, found.dequantized, found.is_dense) == (7, 0, False)
    assert settle_layers(module) == []
    ids = torch.arange(3, 12)[None]
    wanted = dense(input_ids=ids, use_cache=False).logits.detach()
    assert error(module(input_ids=ids, use_cache=False).logits, wanted) < 2e-3
    run = lambda: module(input_ids=ids, use_cache=False)  # noqa: E731
    ordered = "act-order" in name  # here each layer puts its inputs in an order of its own
    assert join_linears(module, run) == (0 if ordered else 2)
    assert error(run().logits, wanted) < 2e-3


def described(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)
