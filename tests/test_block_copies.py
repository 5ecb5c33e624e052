"""A block of the KV cache is copied in every layer, byte for byte, and no other one is touched."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from parity_oracle import Oracle, assert_parity, run_engine
from tiny_models import tiny_model
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.attention.copying import TensorCopier
from batchgen.engine.attention.cpu.paged import CpuAttention
from batchgen.engine.attention.interface import AttentionSpec, CacheShape
from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.run.loader import load_model_from

NUM_BLOCKS, PAIRS = 9, [(0, 3), (7, 1), (0, 8)]
SPECS = [AttentionSpec(0, 4, 2, 16, 16, 0.25), AttentionSpec(1, 4, 1, 24, 40, 0.25)]


def stores_of(caches: list[Any]) -> list[torch.Tensor]:
    names = [("keys", "values") if hasattr(cache, "keys") else ("key", "value") for cache in caches]
    return [
        getattr(cache, name).view(NUM_BLOCKS, -1).view(torch.uint8)
        for cache, two in zip(caches, names, strict=True)
        for name in two
    ]


def check(backend: Any, dtype: torch.dtype, device: str, block_size: int) -> Any:
    shape = CacheShape(NUM_BLOCKS, block_size, dtype, torch.device(device))
    caches = [backend.allocate(spec, shape) for spec in SPECS]
    stores = stores_of(caches)
    for number, store in enumerate(stores):  # any bytes, those of NaN among them
        drawn = torch.Generator().manual_seed(number)
        store.copy_(torch.randint(0, 256, store.shape, generator=drawn, dtype=torch.uint8))
    expected = [store.clone() for store in stores]
    for store, (source, target) in itertools.product(expected, PAIRS):
        store[target] = store[source]
    copier = backend.copier(caches, NUM_BLOCKS)
    copier.copy(PAIRS)
    assert all(map(torch.equal, stores, expected))
    copier.copy([(8, 0)])
    assert all(torch.equal(store[0], store[8]) for store in stores)
    return copier


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", [ReferenceBackend(), CpuAttention(), CpuAttention(False)])
def test_blocks_are_copied_in_all_layers(backend: Any, dtype: torch.dtype) -> None:
    check(backend, dtype, "cpu", 16)


@direct
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("block_size", [16, 64])
def test_one_launch_copies_the_blocks_of_all_layers(dtype: torch.dtype, block_size: int) -> None:
    from batchgen.engine.attention.triton.paged import TritonBackend

    copier = check(TritonBackend(), dtype, "cpu" if INTERPRETED else "cuda", block_size)
    assert copier._proven


@direct
@pytest.mark.parametrize("failure", ["raises", "copies nothing"])
def test_pytorch_copies_where_the_kernel_does_not(
    failure: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from batchgen.engine.attention.triton.copying import LaunchedCopier
    from batchgen.engine.attention.triton.paged import TritonBackend

    def launch(*_: Any) -> None:
        if failure == "raises":
            raise RuntimeError("PTX is not what it was")

    monkeypatch.setattr(LaunchedCopier, "launch", launch)
    copier = check(TritonBackend(), torch.float32, "cpu" if INTERPRETED else "cuda", block_size=16)
    assert copier._proven is False
    assert sum("PyTorch copies blocks" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen3"])
def test_rows_that_begin_with_a_copy_get_the_tokens_of_generate(model_type: str) -> None:
    """Prompts part in the middle of blocks of 16 tokens; some are the beginning of others."""
    head = [3 + i * 7 % 80 for i in range(21)]
    prompts = [[*head, 5 + i, 9, 4] for i in range(6)] + [head, head[:19], [*head, 5, 9, 4, 8, 8]]
    oracle = Oracle(tiny_model(model_type))
    expected = [oracle.generate(prompt, 12) for prompt in prompts]
    model = load_model_from(tiny_model(model_type), CpuAttention())
    config = {"block_size": 16, "max_num_batched_tokens": 32, "max_num_seqs": 4}
    actual, stats = run_engine(model, prompts, 12, **config)
    assert_parity(oracle, prompts, expected, actual)
    assert stats.cached_tokens > 16 * (len(prompts) - 1), "nothing began with a copy"


def test_a_copier_takes_stores_of_any_shape() -> None:
    stores = [torch.arange(12.0).view(6, 2), torch.arange(30).view(3, 2, 5)]
    TensorCopier(stores, 3).copy([(2, 0)])
    assert stores[0].tolist() == [[8, 9], [10, 11], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert stores[1][0].tolist() == stores[1][2].tolist()
