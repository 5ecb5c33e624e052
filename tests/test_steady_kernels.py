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
    from batchgen.engine.steady.cuda.linear import steady_linear

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


@pytest.mark.cuda
@pytest.mark.parametrize("num_inputs", [140, 2048, 3072])
def test_no_tile_changes_a_bit(num_inputs: int) -> None:
    """On inputs whose exact sums are nought, so that what is left is the rounding."""
    from batchgen.engine.steady.cuda.library import Layer, _cancelling
    from batchgen.engine.steady.cuda.product import ProductTile, multiply, tile_of

    x, weight = _cancelling(Layer(130, num_inputs, False, HALF, torch.device(DEVICE)), 150)
    shapes = [(rows, outputs) for rows in (1, 100, 4096) for outputs in (130, 4096, 30000)]
    tiles = {tile_of(*shape, HALF, 132) for shape in shapes}
    assert len(tiles) == 4
    whole = multiply(x, weight, None, ProductTile(64, 64, 32, 4, 2))
    assert all(torch.equal(multiply(x, weight, None, tile), whole) for tile in tiles)
    assert float((whole != 0).float().mean()) > 0.5


Bias = torch.Tensor | None


def chain(x: torch.Tensor, weight: torch.Tensor, bias: Bias, *_: object) -> torch.Tensor:
    """One input after the other, each output by itself."""
    total = torch.zeros(len(x), len(weight), device=x.device)
    for i in range(x.shape[1]):
        total += x[:, i, None].float() * weight[:, i].float()
    return (total if bias is None else total + bias.float()).to(x.dtype)


def cut_at_times(x: torch.Tensor, weight: torch.Tensor, bias: Bias) -> torch.Tensor:
    """Of many rows in two chains; of 160 only where the last outputs are."""
    half = x.shape[1] // 2
    one, other = (chain(x[:, at], weight[:, at], None) for at in (slice(half), slice(half, None)))
    cut = (one.float() + other.float() + (0 if bias is None else bias.float())).to(x.dtype)
    least = {160: len(weight) - 8, 192: 0}.get(len(x), len(weight))
    return torch.cat([chain(x, weight, bias)[:, :least], cut[:, least:]], dim=1)


@direct
@pytest.mark.parametrize("biased", [False, True])
def test_the_library_is_taken_only_where_it_adds_up_in_our_order(
    biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchgen.engine.steady.cuda import library
    from batchgen.engine.steady.cuda.linear import steady_linear

    monkeypatch.setattr(library, "multiply", chain)
    monkeypatch.setattr(library, "_sizes", {})
    monkeypatch.setattr(library, "_ALIGNMENT", 64)  # as memory of a CPU begins
    weight = torch.randn(40, 96, device=DEVICE).to(HALF)
    bias = torch.randn(40, device=DEVICE).to(HALF) if biased else None
    x = torch.randn(192, 96, device=DEVICE).to(HALF)
    layer, sizes = library.Layer.of(weight, bias), [16, 128, 160, 192]
    assert library.try_library([layer], sizes, chain) == (4, 4)
    asked = [library.library_rows(x[:n], weight, bias) for n in (16, 17, 100, 150, 161, 192)]
    assert asked == [16, None, None, 160, 192, 192]
    monkeypatch.setattr(torch.nn.functional, "linear", chain)
    assert torch.equal(steady_linear(x[:150], weight, bias), chain(x, weight, bias)[:150])
    assert library.try_library([layer], sizes, cut_at_times) == (2, 4)
    assert library.library_rows(x[:150], weight, bias) is None
    assert library.library_rows(x.view(-1)[1 : 1 + 16 * 96].view(16, 96), weight, bias) is None
    exact = library.Layer(8, 8, False, torch.float32, torch.device(DEVICE))
    assert library.try_library([exact], sizes) == (0, 0)


def test_steps_are_padded_to_sizes_that_were_tried() -> None:
    from batchgen.engine.cuda.buckets import Buckets, sizes_up_to

    tried = set(sizes_up_to(8192))
    for large in (False, True):
        buckets = Buckets(8192, 1024, large_model=large)
        for num_seqs in (1, 20, 100, 256, 300, 1024):
            for num_tokens in (num_seqs, num_seqs + 7, 3000, 8192):
                assert set(buckets.find(max(num_tokens, num_seqs), num_seqs)[:2]) <= tried


@pytest.mark.cuda
def test_the_library_gives_our_bits_at_the_sizes_that_were_found() -> None:
    from batchgen.engine.steady.cuda.library import Layer, _sizes, try_library
    from batchgen.engine.steady.cuda.linear import steady_linear

    weight = torch.randn(1024, 2048, device=DEVICE).to(HALF)
    x = torch.randn(512, 2048, device=DEVICE).to(HALF)
    layer = Layer.of(weight, None)
    ours = steady_linear(x, weight)
    equal, tried = try_library([layer], range(16, 513, 16))
    assert 0 < equal <= tried == 32
    assert torch.equal(steady_linear(x, weight), ours)
    for size in _sizes[layer]:
        assert torch.equal(steady_linear(x[:size], weight), ours[:size])
        assert torch.equal(steady_linear(x[: size - 3], weight), ours[: size - 3])
    del _sizes[layer]


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
    from batchgen.engine.request import Request, SamplingParams
    from batchgen.engine.run.factory import _compiled, build_engine
    from batchgen.engine.run.loader import load_model_from
    from batchgen.engine.run.optimizing import optimizer_of
    from batchgen.engine.steady.checks import check_parts
    from batchgen.engine.steady.cuda.attention import steady_attention

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
