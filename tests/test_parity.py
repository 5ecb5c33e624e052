"""Greedy fp32 tokens equal `transformers.generate` one row at a time, for every proven model type.

Rows run alone, packed with others, cut at every offset, and preempted.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import pytest
import torch
from parity_oracle import Oracle, assert_parity, run_engine
from tiny_models import ONCE, THOROUGH, VOCAB_SIZE, tiny_model

from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.attention.select import select_backend
from batchgen.engine.cpu.optimize import optimize_for_cpu
from batchgen.engine.model.model import Model
from batchgen.engine.model.pieces import Piece, make_metadata
from batchgen.engine.run.loader import load_model_from

NUM_TOKENS = 6
CHECKED_ROWS = 4
FEW_ROWS = 3
"""Of each model type that is checked once."""
BLOCK_SIZE = 16


class Case:
    """One model type: its oracle's answers, and the model that must give the same."""

    def __init__(self, model_type: str, num_rows: int = CHECKED_ROWS) -> None:
        self.oracle = Oracle(tiny_model(model_type))
        self.rows = make_rows(num_rows)
        self.expected = [self.oracle.generate(row, NUM_TOKENS) for row in self.rows]
        self.module = copy.deepcopy(self.oracle.module)

    @cached_property
    def model(self) -> Model:
        """By the attention that is the oracle of the others."""
        return load_model_from(self.module, ReferenceBackend())

    @cached_property
    def served(self) -> Model:
        """As a CPU serves it: its attention, its layers as one where they can be."""
        return load_model_from(self.module, optimize=partial(optimize_for_cpu, dtype=torch.float32))

    def check(self, tokens: list[list[int]], order: Sequence[int] | None = None) -> None:
        """The first rows' tokens, where row i of the run is row `order[i]` of the case."""
        order = range(len(self.rows)) if order is None else order
        rows, expected = [self.rows[i] for i in order], [self.expected[i] for i in order]
        assert_parity(self.oracle, rows, expected, tokens[: len(order)])


def make_rows(count: int) -> list[list[int]]:
    """Rows of 2 to 30 tokens, the same ones first whatever the count."""
    rng = random.Random(0)
    lengths = [30, 2, 17, 9, 24, 10] + [rng.randint(2, 26) for _ in range(64)]
    return [[rng.randrange(3, VOCAB_SIZE) for _ in range(length)] for length in lengths[:count]]


@pytest.fixture(scope="module", params=THOROUGH)
def thorough(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module", params=ONCE)
def proven(request: pytest.FixtureRequest) -> Case:
    return Case(request.param, FEW_ROWS)


@pytest.mark.parametrize("others", [0, 24])
def test_tokens_do_not_depend_on_how_many_others_a_row_is_packed_with(
    thorough: Case, others: int
) -> None:
    rows = make_rows(max(CHECKED_ROWS, others + 1))
    tokens, _ = run_engine(
        thorough.model, rows, NUM_TOKENS, max_num_seqs=others + 1, block_size=BLOCK_SIZE
    )
    thorough.check(tokens)


def test_a_prompt_may_be_cut_at_every_offset(thorough: Case) -> None:
    row = 2
    cuts = range(1, len(thorough.rows[row]))
    tokens = cut_and_decode(thorough.model, thorough.rows[row], cuts)
    thorough.check(tokens, [row] * len(cuts))


def test_preempted_rows_lose_nothing(thorough: Case) -> None:
    order = sorted(range(CHECKED_ROWS), key=lambda row: len(thorough.rows[row]))
    rows = [thorough.rows[row] for row in order]
    tokens, stats = run_engine(thorough.model, rows, NUM_TOKENS, num_blocks=11, block_size=4)
    assert stats.preemptions > 0
    thorough.check(tokens, order)


def test_the_cpu_backend_gives_the_same_tokens(thorough: Case) -> None:
    model = load_model_from(thorough.module, select_backend(torch.device("cpu"), "cpu"))
    tokens, _ = run_engine(model, make_rows(16), NUM_TOKENS, max_num_seqs=8)
    thorough.check(tokens)


def test_packed_and_chunked_rows_equal_generate(proven: Case) -> None:
    tokens, _ = run_engine(
        proven.served, proven.rows, NUM_TOKENS, max_num_batched_tokens=13, max_num_seqs=2
    )
    proven.check(tokens)


@pytest.mark.cuda
@pytest.mark.parametrize("model_type", [*THOROUGH, *ONCE])
def test_a_gpu_gives_the_tokens_of_generate(model_type: str) -> None:
    cuda = torch.device("cuda")
    oracle = Oracle(tiny_model(model_type).to(cuda))
    model = load_model_from(tiny_model(model_type).to(cuda), select_backend(cuda, "triton"))
    rows = make_rows(CHECKED_ROWS)
    tokens, _ = run_engine(
        model, rows, NUM_TOKENS, max_num_batched_tokens=32, max_num_seqs=4, num_blocks=64
    )
    assert_parity(oracle, rows, [oracle.generate(row, NUM_TOKENS) for row in rows], tokens)


@pytest.mark.parametrize(
    ("model_type", "rope"),
    [
        ("llama", {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}),
        (
            "phi3",
            {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.5] * 4,
                "long_factor": [4.0] * 4,
                "original_max_position_embeddings": 40,
            },
        ),
    ],
)
def test_rope_that_depends_on_length_is_exact_up_to_its_threshold(
    model_type: str, rope: dict[str, Any]
) -> None:
    changes = {"rope_parameters": rope, "max_position_embeddings": 40}
    if model_type == "phi3":
        changes |= {"max_position_embeddings": 256, "original_max_position_embeddings": 40}
    oracle = Oracle(tiny_model(model_type, **changes))
    model = load_model_from(tiny_model(model_type, **changes), ReferenceBackend())
    assert model.max_position == 40
    rows = make_rows(CHECKED_ROWS)
    tokens, _ = run_engine(model, rows, NUM_TOKENS, max_num_batched_tokens=13)
    expected = [oracle.generate(row, NUM_TOKENS) for row in rows]
    assert_parity(oracle, rows, expected, tokens)


def test_padding_may_pass_the_most_tokens_of_a_step() -> None:
    model = load_model_from(tiny_model("llama4_text"), ReferenceBackend())
    most = model.max_num_tokens
    assert most is not None
    model.allocate_cache(1, most)
    ids = torch.tensor([3 + i % (VOCAB_SIZE - 3) for i in range(most)])
    metadata = make_metadata([Piece((0,), 0, most)], most, model.device)
    last = torch.tensor([most - 1])
    alone = model.forward(ids, torch.arange(most), metadata, last)
    padding = torch.zeros(33, dtype=torch.int64)
    metadata.num_tokens += len(padding)
    metadata.slot_mapping = torch.cat([metadata.slot_mapping, padding - 1])
    ids, places = torch.cat([ids, padding]), torch.cat([torch.arange(most), padding])
    padded = model.forward(ids, places, metadata, last)
    torch.testing.assert_close(padded, alone)


def cut_and_decode(model: Model, prompt: list[int], cuts: range) -> list[list[int]]:
    """Copies of one prompt, each cut at its own place, packed and decoded together."""
    blocks = -(-(len(prompt) + NUM_TOKENS) // 4)
    model.allocate_cache(len(cuts) * blocks, 4)
    tables = [tuple(range(i * blocks, (i + 1) * blocks)) for i in range(len(cuts))]
    rows = [list(prompt) for _ in cuts]
    starts = [0] * len(cuts)
    for step in range(NUM_TOKENS + 1):
        stops = list(cuts) if step == 0 else [len(row) for row in rows]
        groups = [range(len(cuts))]
        if model.max_num_tokens is not None:
            groups = [range(i, i + 1) for i in range(len(cuts))]
        for group in groups:
            pieces = [Piece(tables[i], starts[i], stops[i]) for i in group]
            metadata = make_metadata(pieces, 4, model.device)
            ids = torch.tensor([t for i in group for t in rows[i][starts[i] : stops[i]]])
            places = torch.cat([torch.arange(piece.start, piece.stop) for piece in pieces])
            last = metadata.cu_seqlens_q[1:].long() - 1
            best = model.forward(ids, places, metadata, last).argmax(dim=-1).tolist()
            if step:
                for i, token in zip(group, best, strict=True):
                    rows[i].append(token)
        starts = stops
    return [row[len(prompt) :] for row in rows]
