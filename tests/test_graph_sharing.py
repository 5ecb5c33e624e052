"""On a GPU: rows that read keys together, inside graphs, say what they say without a cache."""

from __future__ import annotations

import random
from typing import Any

import pytest
from engine_runs import completions_of, tokens_of
from test_graph_runner import make_module

from batchgen.engine.attention.triton import sharing
from batchgen.engine.config import EngineConfig
from batchgen.engine.cuda import shared_reads
from batchgen.engine.cuda.compiled import compile_layers
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import build_engine
from batchgen.engine.run.loader import load_model_from
from batchgen.engine.stats import EngineStats

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("layers_count_as_large")]


def alike(count: int = 60) -> list[Request]:
    """Two instructions, two documents under each, a question each."""
    rng = random.Random(3)

    def some(length: int) -> list[int]:
        return [rng.randrange(3, 512) for _ in range(length)]

    heads = [some(130), some(150)]
    pages = [[head + some(100) for _ in range(2)] for head in heads]
    return [
        Request(
            i,
            pages[i % 2][i // 2 % 2] + some(rng.randint(1, 20)),
            SamplingParams(max_tokens=rng.randint(10, 60), ignore_eos=True),
        )
        for i in range(count)
    ]


def run(module: Any, **changes: Any) -> tuple[dict[int, list[int]], EngineStats]:
    model = load_model_from(module)
    assert compile_layers(model) > 0
    settings = {"max_num_seqs": 32, "max_num_batched_tokens": 256, "block_size": 16}
    settings |= {"num_blocks": 800, "max_model_len": 512}
    engine = build_engine(model, EngineConfig(model=None, **(settings | changes)))  # type: ignore[arg-type]
    return tokens_of(completions_of(engine, alike())), engine.stats()


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("num_blocks", [800, 260])
def test_rows_that_read_together_say_the_same(
    model_type: str, num_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_WORTH_BYTES", 0)
    monkeypatch.setattr(shared_reads, "_FEWEST_KEYS", 1)
    apart, _ = run(make_module(model_type), enable_prefix_caching=False)
    together, stats = run(make_module(model_type), num_blocks=num_blocks)
    assert stats.shared_read_tokens > 0
    assert stats.cached_tokens > 0
    same = sum(apart[i] == together[i] for i in apart)
    assert same >= len(apart) - 2  # rounding may tip a near tie
