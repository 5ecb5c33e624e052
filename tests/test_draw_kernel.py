"""Promise: draws by the C kernel are those of the sampler in PyTorch, whatever rows are beside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.engine.kernels.draw import DrawKernel
from batchgen.engine.sampling import sampler
from batchgen.engine.sampling.batch import Filter, Processing

pytestmark = [
    pytest.mark.usefixtures("two_threads"),
    pytest.mark.skipif(DrawKernel.load() is None, reason="no C compiler"),
]
VOCABULARIES = (1, 7, 255, 256, 1000, 5003)
FILTERS: dict[str, dict[str, float]] = {
    "none": {},
    "top-k": {"top_k": 20},
    "all but one": {"top_k": 999},
    "top-p": {"top_p": 0.9},
    "nearly all": {"top_p": 1 - 2**-24},
    "nearly none": {"top_p": 1e-9},
    "min-p": {"min_p": 0.05},
    "all three": {"top_k": 40, "top_p": 0.95, "min_p": 0.01},
}


def processing(num_rows: int, vocab_size: int, **named: float) -> Processing:
    """Every row draws, each with another temperature and key; `named` are the filters."""
    rows = torch.arange(num_rows)

    def chosen(name: str, dtype: torch.dtype) -> Filter | None:
        value: Any = named.get(name)
        if value is None or (name == "top_k" and value >= vocab_size):
            return None
        return Filter(rows, torch.full((num_rows,), value, dtype=dtype), float(value))

    return Processing(
        bias=None,
        allowed=None,
        penalties=None,
        masked=None,
        drawing=rows,
        temperature=torch.linspace(0.3, 2.0, num_rows),
        keys=rows * 7919,
        positions=rows,
        top_k=chosen("top_k", torch.int64),
        top_p=chosen("top_p", torch.float32),
        min_p=chosen("min_p", torch.float32),
    )


def drawn(scores: torch.Tensor, asked: Processing) -> list[int]:
    """By the kernel."""
    return sampler._draw(scores.clone(), scores.amax(1), asked).tolist()


def expected(scores: torch.Tensor, asked: Processing) -> list[int]:
    """By PyTorch."""
    best = scores.amax(1, keepdim=True)
    return sampler._draw_by_torch(scores.clone(), best, asked).tolist()


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("name", FILTERS)
def test_tokens_are_those_of_the_sampler_in_torch(name: str, vocab_size: int) -> None:
    asked = processing(40, vocab_size, **FILTERS[name])
    for spread in (0.0, 0.1, 3.0, 30.0):
        scores = torch.randn(40, vocab_size) * spread
        assert drawn(scores, asked) == expected(scores, asked)


@pytest.mark.parametrize("name", FILTERS)
def test_what_rules_have_banned_is_never_drawn(name: str) -> None:
    scores = torch.randn(40, 1000)
    scores[:, 1:700] = -torch.inf
    asked = processing(40, 1000, **FILTERS[name])
    found = drawn(scores, asked)
    assert found == expected(scores, asked)
    assert scores[range(40), found].isfinite().all()


@pytest.mark.parametrize("name", FILTERS)
def test_of_equal_scores_at_a_border_all_stay(name: str) -> None:
    scores = torch.randint(0, 4, (200, 300)).float()
    asked = processing(200, 300, **FILTERS[name])
    assert drawn(scores, asked) == expected(scores, asked)


@given(st.lists(st.sampled_from([torch.nan, torch.inf, -torch.inf, 0.0, 88.0]), min_size=2))
@settings(max_examples=50, deadline=None)
def test_odd_logits_give_an_id_of_the_vocabulary_and_leave_other_rows_alone(
    odd: list[float],
) -> None:
    scores = torch.randn(3, len(odd) + 300)
    asked = processing(3, scores.shape[1], top_k=5, top_p=0.9)
    wanted = drawn(scores, asked)
    scores[1, : len(odd)] = torch.tensor(odd)
    found = drawn(scores, asked)
    assert found[::2] == wanted[::2]
    assert 0 <= found[1] < scores.shape[1]


def test_a_row_draws_alone_what_it_draws_among_others() -> None:
    scores, asked = torch.randn(64, 5003) * 2, processing(64, 5003, top_p=0.9)
    whole = drawn(scores, asked)
    for row in range(0, 64, 9):
        one = Filter(torch.tensor([0]), torch.tensor([0.9]), 0.9)
        parts = ("temperature", "keys", "positions")
        own = {name: getattr(asked, name)[row : row + 1] for name in parts}
        alone = replace(processing(1, 5003), top_p=one, **own)
        assert drawn(scores[row : row + 1], alone) == [whole[row]]


def test_rows_that_do_not_draw_keep_their_scores() -> None:
    scores, plain = torch.randn(6, 400), processing(3, 400, top_k=9)
    asked = replace(plain, drawing=torch.tensor([4, 0, 5]))
    before = scores.clone()
    best = scores.amax(1)
    found = sampler._draw(scores, best, asked).tolist()
    assert torch.equal(scores[1:4], before[1:4])
    assert found == expected(before[[4, 0, 5]], asked)
