"""Equal rows are computed once, each still with its own answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine_runs import completions_of, tokens_of
from fake_model import FakeModel, engine_over

from batchgen.engine.request import Request, SamplingParams

GREEDY = SamplingParams(max_tokens=9, ignore_eos=True)
DRAWN = replace(GREEDY, temperature=1.0)


def row(number: int, params: SamplingParams = GREEDY, **changes: Any) -> Request:
    return replace(Request(number, [4, 5, 6], params), **changes)


def test_equal_rows_are_computed_once_and_answered_each() -> None:
    model = FakeModel()
    engine = engine_over(model)
    completions = completions_of(engine, [row(i, replace(GREEDY, seed=i)) for i in range(20)])
    assert sum(model.num_tokens_of_steps) == 3 + 8
    assert sorted(completions) == list(range(20))
    assert len({tuple(c.token_ids) for c in completions.values()}) == 1
    assert sorted(c.cached_tokens for c in completions.values()) == [0] + [3] * 19
    assert engine.stats().folded_rows == 19


def test_rows_that_differ_in_anything_that_counts_are_computed_apart() -> None:
    requests = [
        row(0),
        row(1, prompt_token_ids=[4, 5, 7]),
        row(2, replace(GREEDY, max_tokens=8)),
        row(3, DRAWN, draw_key=1),
        row(4, DRAWN, draw_key=2),
        row(5, output_token_ids=[3]),
        row(6, stop_checker=lambda ids: None),
    ]
    engine = engine_over()
    folded = completions_of(engine, requests)
    assert engine.stats().folded_rows == 0
    assert tokens_of(folded) == tokens_of(completions_of(engine_over(fold=False), requests))


def test_folding_changes_no_token() -> None:
    requests = [row(i, DRAWN if i % 3 else GREEDY, draw_key=i % 4) for i in range(24)]
    engine = engine_over()
    folded = tokens_of(completions_of(engine, requests))
    assert engine.stats().folded_rows == 24 - 5
    assert folded == tokens_of(completions_of(engine_over(fold=False), requests))


def test_an_aborted_row_leaves_its_answer_to_those_that_wait_for_it() -> None:
    engine = engine_over()
    for number in range(4):
        engine.add(row(number))
    engine.step()
    engine.abort(0)
    engine.abort(2)
    assert engine.num_unfinished == 2
    assert set(engine.unfinished_outputs()) == {1, 3}
    completions = completions_of(engine, [])
    assert tokens_of(completions) == tokens_of(completions_of(engine_over(), [row(1), row(3)]))
    engine.add(row(0))
    assert engine.num_unfinished == 1, "nobody is left to follow"
    engine.abort(0)
    assert completions_of(engine, [row(9)])[9].cached_tokens == 0


def test_every_row_is_announced_once_also_one_that_comes_late() -> None:
    engine, announced = engine_over(), []
    engine.on_admission = announced.extend
    engine.add(row(0))
    engine.add(row(1))
    engine.step()
    engine.add(row(2))
    completions = completions_of(engine, [])
    assert announced == [0, 1, 2]
    late = completions[2].timings
    assert late.enqueued <= late.first_scheduled <= late.first_token <= late.finished


def test_what_followers_have_so_far_is_kept_with_their_leaders() -> None:
    engine = engine_over()
    engine.add(row(0))
    engine.add(row(1))
    for _ in range(4):
        engine.step()
    outputs = engine.unfinished_outputs()
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 4
    engine.close()
    assert engine.num_unfinished == 0
