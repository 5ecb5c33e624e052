"""Promise: of the last layer a step computes no more than its logits need, and answers the same."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from tiny_models import runs_as_one, tiny_model
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from batchgen.engine.attention.cpu.paged import CpuAttention
from batchgen.engine.attention.ends import ends_of
from batchgen.engine.attention.interface import (
    MAX_SHARED_ITEMS,
    ROW_WORDS,
    SHARED_WORDS,
    AttentionBackend,
    AttentionMetadata,
    AttentionSpec,
    CacheShape,
)
from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.cpu.optimize import optimize_for_cpu
from batchgen.engine.cuda.buckets import Bucket
from batchgen.engine.cuda.compiled import compile_layers, uncompile_layers
from batchgen.engine.cuda.graph_inputs import Sections, section_lengths
from batchgen.engine.kernels.build import load_kernels
from batchgen.engine.last_layer.binding import pays_alone
from batchgen.engine.last_layer.layer import LastLayer, token_dims
from batchgen.engine.model.model import Model
from batchgen.engine.model.pieces import Piece, make_metadata
from batchgen.engine.run.loader import load_model_from
from batchgen.engine.weights import Weights

BLOCK = 16
LENGTHS = (40, 7, 23, 60)
needs_compiler = pytest.mark.skipif(load_kernels() is None, reason="no C compiler")


def load(model_type: str, optimized: bool = False, dtype: torch.dtype = torch.float32) -> Model:
    optimize = partial(optimize_for_cpu, dtype=dtype) if optimized else None
    return load_model_from(tiny_model(model_type).to(dtype), optimize=optimize)


def steps(seed: int, block_size: int = BLOCK) -> list[list[tuple[int, Piece]]]:
    """Each sequence whole, cut at random; its number with each piece. A step has one of some."""
    rng = random.Random(seed)
    blocks = iter(rng.sample(range(200), 200))
    tables = [tuple(next(blocks) for _ in range(-(-n // block_size))) for n in LENGTHS]
    done = [0] * len(LENGTHS)
    found = []
    while any(at < length for at, length in zip(done, LENGTHS, strict=True)):
        step = []
        for i in rng.sample(range(len(LENGTHS)), len(LENGTHS)):
            stop = min(LENGTHS[i], done[i] + rng.choice((0, 1, 9, 30)))
            if stop > done[i]:
                step.append((i, Piece(tables[i], done[i], stop)))
                done[i] = stop
        if step:
            found.append(step)
    return found


def answers(
    model: Model, seed: int, *, backwards: bool = False, block_size: int = BLOCK
) -> list[torch.Tensor]:
    """Logits of each step: of some of its tokens, of none in one of four."""
    rng = random.Random(seed)
    ids = [torch.tensor([rng.randrange(3, 90) for _ in range(n)]) for n in LENGTHS]
    model.allocate_cache(200, block_size)
    found = []
    for step in steps(seed, block_size):
        row = torch.cat([ids[i][piece.start : piece.stop] for i, piece in step])
        places = torch.cat([torch.arange(piece.start, piece.stop) for _, piece in step])
        metadata = make_metadata([piece for _, piece in step], block_size, model.device)
        kept = [] if rng.random() < 0.25 else sorted(rng.sample(range(len(row)), len(row) // 3))
        asked = torch.tensor(kept[::-1] if backwards else kept, dtype=torch.int64)
        found.append(model.forward(row, places, metadata, asked))
    model.release_cache()
    return found


def assert_same(model: Model, bound: float = 2e-5, **how: Any) -> None:
    """As if the last layer answered for every token."""
    assert model.ends_alone
    for seed in range(4):
        got = answers(model, seed, **how)
        model.ends_alone = False
        expected = answers(model, seed, **how)
        model.ends_alone = True
        for one, other in zip(got, expected, strict=True):
            assert one.shape == other.shape
            assert (one - other).abs().max() <= bound * other.abs().max() if len(one) else True


@pytest.mark.parametrize(
    "model_type", ["llama", "gemma3_text", "gpt_oss", "qwen3_moe", "cohere2", "deepseek_v3"]
)
def test_layers_of_any_kind_answer_the_same(model_type: str) -> None:
    """Windows, sinks, experts, parallel blocks, keys of another width than values."""
    assert_same(load(model_type))


@needs_compiler
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_a_stack_in_c_answers_the_same(model_type: str, dtype: torch.dtype, bound: float) -> None:
    model = load(model_type, optimized=True, dtype=dtype)
    assert runs_as_one(model)
    assert_same(model, bound)
    assert_same(model, bound, backwards=True)  # that the kernel does not take
    assert_same(model, bound, block_size=8)  # neither these: the layers run one by one


@needs_compiler
def test_a_stack_in_c_rounded_to_8_bits_answers_the_same() -> None:
    optimize = partial(optimize_for_cpu, dtype=torch.float32, quantization="int8")
    model = load_model_from(tiny_model("llama"), optimize=optimize, confirmed=False)
    assert_same(model, 1e-2)


class _Seen:
    """Numbers of tokens that a module was called with."""

    def __init__(self, module: nn.Module) -> None:
        self.sizes: list[int] = []
        module.register_forward_pre_hook(lambda _, args: self.sizes.append(args[0].shape[1]))


def test_what_comes_after_attention_sees_only_the_tokens_that_are_asked_for() -> None:
    model = load("llama")
    first, last = (_Seen(model.module.model.layers[i].mlp) for i in (0, -1))
    answers(model, seed=1)
    sizes = [sum(p.stop - p.start for _, p in step) for step in steps(seed=1)]
    assert first.sizes == sizes
    assert all(asked <= max(1, size // 3) for asked, size in zip(last.sizes, sizes, strict=True))


def test_a_step_of_decodes_calls_the_last_layer_once() -> None:
    model = load("llama")
    seen = _Seen(model.module.model.layers[-1])
    model.allocate_cache(4, BLOCK)
    pieces = [Piece((i,), 4, 5) for i in range(4)]
    metadata = make_metadata(pieces, BLOCK, model.device)
    model.forward(torch.arange(4), torch.full((4,), 4), metadata, torch.arange(4))
    assert seen.sizes == [4]


def test_a_layer_that_knows_the_number_of_tokens_answers_for_all_of_them() -> None:
    """GPT-2's shapes its answer by what it was told before: no harm, no gain."""
    model = load("gpt2")
    assert not model.ends_alone
    assert not isinstance(model.module.transformer.h[-1]._compiled_call_impl, LastLayer)


def test_other_answers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    own: Any = LastLayer.__call__
    monkeypatch.setattr(LastLayer, "__call__", lambda *a, **k: own(*a, **k) * 1.1 + 0.1)
    model = load("llama")
    assert not model.ends_alone
    monkeypatch.undo()
    got, expected = answers(model, seed=1), answers(load("llama"), seed=1)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_layer_that_fails_on_few_tokens_answers_for_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it raises: a model's own code may look up how many tokens a step has."""

    def picked(*_: Any) -> Any:
        raise KeyError(4)

    monkeypatch.setattr(LastLayer, "_picked", picked)
    model = load("llama")
    assert not model.ends_alone
    assert not isinstance(model.module.model.layers[-1]._compiled_call_impl, LastLayer)
    assert model.step.ends is None


def test_the_dimension_of_tokens_is_told_by_two_steps() -> None:
    def call(n: int) -> tuple[int, Any]:
        given = {"angles": (torch.zeros(1, n, 8), torch.zeros(n, 4)), "mask": None, "k": 3}
        return n, ((torch.zeros(1, n, 9),), given)

    assert token_dims([call(9), call(21)]) == [1, 1, 0, None, None]
    assert token_dims([call(9), (21, ((torch.zeros(1, 21, 9),), {}))]) is None


BACKENDS = [
    pytest.param(ReferenceBackend(), id="reference"),
    pytest.param(CpuAttention(), id="c", marks=needs_compiler),
    pytest.param(CpuAttention(use_kernel=False), id="torch"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_and_values_stored_alone_are_those_of_a_whole_step(
    backend: AttentionBackend, dtype: torch.dtype
) -> None:
    spec = AttentionSpec(0, num_heads=4, num_kv_heads=2, head_dim=8, v_head_dim=6, scale=1.0)
    shape = CacheShape(4, BLOCK, dtype, torch.device("cpu"))
    torch.manual_seed(0)
    query, key, value = (torch.randn(21, h, d).to(dtype) for h, d in ((4, 8), (2, 8), (2, 6)))
    metadata = make_metadata([Piece((3, 0), 0, 20), Piece((2,), 5, 6)], BLOCK, shape.device)
    caches: list[Any] = [backend.allocate(spec, shape) for _ in range(2)]
    backend.prepare(metadata)
    backend.forward(query, key, value, caches[0], spec, metadata)
    backend.store(key, value, caches[1], spec, metadata)
    assert all(torch.equal(getattr(caches[1], n), getattr(caches[0], n)) for n in ("key", "value"))
    assert caches[1].key.any()


def test_compiled_layers_answer_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled as for a GPU but for the last step, the code: once for all layers and lengths."""
    graphs: list[Any] = []

    def keep(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    real, backend = torch.compile, aot_autograd(fw_compiler=keep)
    monkeypatch.setattr(torch, "compile", lambda f, **_: real(f, dynamic=True, backend=backend))
    model = load("llama")
    expected = answers(model, seed=3)
    try:
        assert compile_layers(model) == len(model.module.model.layers)
        for one, other in zip(answers(model, seed=3), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert model.ends_alone
    finally:
        uncompile_layers(model)
    assert len(graphs) == 1
    assert not model.ends_alone


def test_on_a_gpu_small_layers_answer_for_all_tokens() -> None:
    """Of Qwen3-0.6B's shape, and of Llama-3-8B's."""
    small = Weights(440_000_000, 440_000_000, 880_000_000)
    large = Weights(7_500_000_000, 7_000_000_000, 15_000_000_000)
    assert not pays_alone(torch.device("cuda"), small, 28)
    assert pays_alone(torch.device("cuda"), large, 32)
    assert pays_alone(torch.device("cpu"), small, 28)


def test_rows_of_few_tokens_keep_their_places_in_the_cache_and_what_they_share() -> None:
    """A step padded as for a graph: two decodes, a chunk of five tokens, one row of padding."""
    bucket = Bucket(num_tokens=16, num_seqs=4, shares=True)
    buffer = torch.arange(sum(section_lengths(bucket, BLOCK)), dtype=torch.int32)
    shared = Sections.of(buffer, bucket, BLOCK).shared_reads()
    metadata = AttentionMetadata(
        cu_seqlens_q=torch.tensor([0, 1, 2, 7, 7], dtype=torch.int32),
        seq_lens=torch.tensor([30, 40, 25, 0], dtype=torch.int32),
        block_tables=torch.arange(8, dtype=torch.int32).view(4, 2),
        slot_mapping=torch.arange(16),
        block_size=BLOCK,
        num_seqs=4,
        num_tokens=16,
        max_seqlen_q=16,
        max_seqlen_k=64,
        shared=shared,
    )
    ends = ends_of(metadata, torch.tensor([0, 1, 6, 3])).metadata
    assert ends.cu_seqlens_q.tolist() == [0, 1, 2, 3, 4]
    assert ends.seq_lens.tolist() == [30, 40, 25, 22]
    assert ends.block_tables.tolist() == [[0, 1], [2, 3], [4, 5], [4, 5]]
    assert ends.slot_mapping.tolist() == [-1] * 4
    assert (ends.num_seqs, ends.num_tokens, ends.max_seqlen_q) == (4, 4, 1)
    assert ends.shared is not None
    assert ends.shared.rows.shape == (4, ROW_WORDS)
    assert torch.equal(ends.shared.rows, shared.rows[[0, 1, 2, 2]])
    assert ends.shared.items.shape == (MAX_SHARED_ITEMS, SHARED_WORDS)
