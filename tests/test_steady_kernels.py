"""Promise: on a GPU too, sums have one order whatever the step holds. Interpreted without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.model.model import Model

pytest.importorskip("triton", reason="triton is not installed: no CUDA backend to test")

DEVICE = "cpu" if INTERPRETED else "cuda"
HALF = torch.float16 if INTERPRETED else torch.bfloat16
"""The interpreter multiplies bfloat16's bits as whole numbers."""
DTYPES = [torch.float32, HALF]
ROWS = [1, 3, 17, 70] if INTERPRETED else [1, 3, 17, 64, 65, 200, 256, 300]


def same(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Bit for bit; the interpreter's products are numpy's, where a row's place in a tile counts."""
    if not INTERPRETED:
        return torch.equal(got, expected)
    bound = 2e-5 if got.dtype == torch.float32 else 2**-7
    return bool((got.float() - expected.float()).abs().max() <= bound * expected.abs().max())


@direct
@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "dtype"), [(50, 40, torch.float32), (130, 192, HALF)]
)
def test_a_product_is_the_same_bits_for_any_number_of_rows(
    num_outputs: int, num_inputs: int, dtype: torch.dtype
) -> None:
    from batchgen.engine.steady.cuda.product import steady_linear

    torch.manual_seed(0)
    weight = torch.randn(num_outputs, num_inputs, device=DEVICE).to(dtype)
    bias = torch.randn(num_outputs, device=DEVICE).to(dtype)
    x = torch.randn(ROWS[-1], num_inputs, device=DEVICE).to(dtype)
    whole = steady_linear(x, weight, bias)
    expected = F.linear(x.double(), weight.double(), bias.double())
    bound = 2e-5 if dtype == torch.float32 else 2**-7
    assert (whole.double() - expected).abs().max() <= bound * expected.abs().max()
    for count in ROWS[:-1]:
        assert same(steady_linear(x[:count], weight, bias), whole[:count])
        assert same(steady_linear(x[-count:], weight, bias), whole[-count:])


@direct
@pytest.mark.parametrize("num_rows", [70] if INTERPRETED else [20, 70, 150])
def test_segments_are_added_up_in_one_order_by_one_program_or_by_several(num_rows: int) -> None:
    from batchgen.engine.steady.cuda.product import ProductTile, multiply

    torch.manual_seed(0)
    x = torch.randn(num_rows, 420, device=DEVICE).to(HALF)
    weight = torch.randn(50, 420, device=DEVICE).to(HALF)
    tiles = [ProductTile(64, 64, 32, 4, spread, 4, 2) for spread in (False, True, True)]
    one, several, again = (multiply(x, weight, None, tile) for tile in tiles)
    assert torch.equal(one, several)
    assert torch.equal(one, again)  # what has arrived is counted anew
    expected = x.double() @ weight.double().T
    assert (one.double() - expected).abs().max() <= 2**-7 * expected.abs().max()


@pytest.mark.parametrize("shape", [(1024, 4096), (151936, 1024), (4096, 14336), (28672, 4096)])
def test_rows_decide_nothing_that_changes_a_sum(shape: tuple[int, int]) -> None:
    from batchgen.engine.steady.cuda.product import tile_of

    tiles = [tile_of(rows, *shape, torch.bfloat16, 132) for rows in range(1, 2049)]
    assert len({(tile.block_n, tile.block_k, tile.segments) for tile in tiles}) == 1
    assert len({tile.block_m for tile in tiles}) == 2
    sizes = [-(-rows // tile.block_m) for rows, tile in enumerate(tiles, 1)]
    across = -(-shape[0] // tiles[0].block_n)
    assert all(n * across < 132 for n, tile in zip(sizes, tiles, strict=True) if tile.spread)


@direct
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_is_the_same_bits_for_any_number_of_rows(dtype: torch.dtype) -> None:
    from batchgen.engine.steady.cuda.norm import steady_norm

    torch.manual_seed(0)
    x, weight = torch.randn(9, 72, device=DEVICE).to(dtype), torch.randn(72, device=DEVICE)
    whole = steady_norm(x, weight, 1e-5, True)
    expected = F.rms_norm(x.double(), (72,), weight.double(), 1e-5)
    bound = 2e-6 if dtype == torch.float32 else 2**-6
    assert (whole.double() - expected).abs().max() <= bound * expected.abs().max()
    assert all(torch.equal(steady_norm(x[i:], weight, 1e-5, True), whole[i:]) for i in range(9))
    heads = torch.cat([x, x], dim=1).view(3, 3, 2, 72)[:, :, :1]  # of a joined product's rows
    assert torch.equal(steady_norm(heads, weight, 1e-5, True).view(9, 72), whole)


@direct
@pytest.mark.parametrize("window", [9] if INTERPRETED else [None, 9])
def test_attention_is_the_same_bits_in_chunks_and_alone(window: int | None) -> None:
    from batchgen.engine.attention.interface import AttentionSpec, CacheShape
    from batchgen.engine.model.pieces import Piece, make_metadata
    from batchgen.engine.steady.cuda.attention import steady_attention

    torch.manual_seed(0)
    spec, length, dtype = AttentionSpec(0, 4, 2, 16, 16, 0.25, window), 38, HALF
    shapes = [(length, heads, 16) for heads in (4, 2, 2)]
    row = [torch.randn(shape, device=DEVICE).to(dtype) for shape in shapes]
    other = [torch.randn(23, *shape[1:], device=DEVICE).to(dtype) for shape in shapes]

    def attended(cuts: list[int], beside: bool) -> torch.Tensor:
        backend = steady_attention()
        cache = backend.allocate(spec, CacheShape(12, 16, dtype, torch.device(DEVICE)))
        found = []
        for begin, end in zip([0, *cuts], [*cuts, length], strict=True):
            pieces = [Piece((6, 2, 4, 0, 5), begin, end)]
            tensors = [part[begin:end] for part in row]
            if beside:
                pieces.insert(0, Piece((1, 3), 0, 23))
                tensors = [torch.cat([a, b]) for a, b in zip(other, tensors, strict=True)]
            metadata = make_metadata(pieces, 16, torch.device(DEVICE))
            backend.prepare(metadata)
            out = backend.forward(*tensors, cache, spec, metadata)
            found.append(out[-(end - begin) :])
        return torch.cat(found)

    alone = attended([], beside=False)
    for cuts in ([5, 30],) if INTERPRETED else ([16], [5, 30], [34, 35, 36, 37]):
        for beside in (True,) if INTERPRETED else (False, True):
            assert same(attended(cuts, beside), alone)


def test_no_engine_reads_keys_for_several_rows_at_once() -> None:
    from batchgen.engine.attention.interface import AttentionSpec
    from batchgen.engine.attention.triton.paged import TritonBackend
    from batchgen.engine.steady.cuda.attention import steady_attention, whole_tile

    spec = AttentionSpec(0, 16, 8, 128, 128, 0.1, None)
    asked: tuple[Any, ...] = ([spec], torch.bfloat16, 64, torch.device("cpu"))
    assert TritonBackend(whole_tile, whole_tile).sharing(*asked) is not None
    assert steady_attention().sharing(*asked) is None  # whoever builds it, by whatever settings


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_model_is_proven_compiled_and_its_rows_run_alike_in_graphs(dtype: torch.dtype) -> None:
    from dataclasses import replace

    from tiny_models import tiny_model

    from batchgen.engine.config import EngineConfig
    from batchgen.engine.factory import _compiled, build_engine
    from batchgen.engine.loader import load_model_from
    from batchgen.engine.optimizing import optimizer_of
    from batchgen.engine.request import Request, SamplingParams
    from batchgen.engine.steady.cuda.attention import steady_attention
    from batchgen.engine.steady.hold import check_parts

    device = torch.device("cuda")
    config = EngineConfig(Path("m"), device="cuda", deterministic=True)
    module = tiny_model("llama", head_dim=16).to(dtype).cuda()
    optimize = optimizer_of(config, device)
    model = load_model_from(module, steady_attention(), optimize=optimize)
    check_parts(model)
    params = SamplingParams(max_tokens=24, logprobs=5)
    rows = [[5 + (7 * i + j) % 80 for j in range(3 + 11 * i % 50)] for i in range(40)]

    def run(model: Model, config: EngineConfig) -> list[object]:
        engine = build_engine(model, config)
        for i, row in enumerate(rows):
            engine.add(Request(i, row, params))
        done = []
        while engine.num_unfinished:
            done += engine.step()
        done.sort(key=lambda one: one.request_id)
        return [(one.token_ids, one.logprobs, one.top_logprobs) for one in done]

    _compiled(model, config, run)
    wide = run(model, config)
    for settings in ({"max_num_seqs": 1}, {"max_num_seqs": 7, "max_num_batched_tokens": 64}):
        assert run(model, replace(config, num_blocks=9, **settings)) == wide  # preempted, too
