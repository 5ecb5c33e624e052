"""Prompts' own tokens are scored alike, chunked, shared, preempted, mixed or healed."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence as Rows
from dataclasses import replace
from itertools import accumulate
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import completions_of
from fake_model import VOCAB_SIZE, FailingModel, FakeModel
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.engine.config import EngineConfig
from batchgen.engine.execution.packing import scored_indices
from batchgen.engine.processes.wire import Add, Report, Wire
from batchgen.engine.request import Completion, FinishReason, Request, SamplingParams
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.factory import build_engine
from batchgen.engine.sampling.row_search import likeliest
from batchgen.engine.sampling.scores import _wanted
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.scoring import ScoredRow, scored_range
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep
from batchgen.engine.stats import EngineStats
from batchgen.engine.targets import Targets

ALONE = SamplingParams(max_tokens=0)


def engine_of(model: FakeModel | None = None, **config: Any) -> LLMEngine:
    sizes: dict[str, Any] = {"block_size": 4, "num_blocks": 200, "max_num_seqs": 8}
    return build_engine(model or FakeModel(), EngineConfig(Path("fake"), **(sizes | config)))


def every_token(prompt: Rows[int]) -> Targets:
    """Each token of the prompt but the first, after the one before it."""
    return Targets(0, array("i", prompt[1:]), array("i", range(1, len(prompt))))


def run(engine: LLMEngine, requests: Rows[Request]) -> dict[int, Completion]:
    done = completions_of(engine, requests)
    engine.close()
    return done


def test_the_likeliest_tokens_of_each_place_come_with_the_scores() -> None:
    prompt, other = [5, 9, 2, 40, 41], [9, 9]
    targets = replace(every_token(prompt), top=2)
    rows = [
        Request(1, prompt, ALONE, targets=targets),
        Request(2, other, ALONE, targets=every_token(other)),
    ]
    done = run(engine_of(max_num_batched_tokens=3), rows)
    assert done[2].target_tops is None
    for place, top in enumerate(done[1].target_tops or []):
        one = SamplingParams(max_tokens=1, logprobs=2, top_logprobs=2)
        found = run(engine_of(), [Request(1, prompt[: place + 1], one)])[1]
        assert found.top_logprobs == [[(token, pytest.approx(p, abs=1e-6)) for token, p in top]]
    assert len(done[1].target_tops or []) == len(prompt) - 1


def scores(engine: LLMEngine, requests: Rows[Request]) -> dict[int, list[float]]:
    return {i: c.target_logprobs or [] for i, c in run(engine, requests).items()}


def mixed(seed: int = 0, count: int = 24) -> list[Request]:
    """Scored alone, scored and generated, not scored; with shared beginnings."""
    draw = random.Random(seed)
    shared = [draw.randrange(VOCAB_SIZE) for _ in range(13)]
    found = []
    for i in range(count):
        prompt = shared[: draw.randrange(14)] + [
            draw.randrange(VOCAB_SIZE) for _ in range(draw.randrange(1, 20))
        ]
        kind = i % 4
        targets = None if kind == 0 else every_token(prompt)
        if kind == 3:  # labels: several ids, from the prompt's last token on
            first = len(prompt) - 1
            targets = Targets(first, array("i", (1, 2, 3)), array("i", (3,)))
        params = SamplingParams(max_tokens=(5, 0, 4, 0)[kind], logprobs=0 if i % 3 == 0 else None)
        found.append(Request(i, prompt, params, targets=targets))
    return found


@pytest.fixture(scope="module")
def alone() -> list[list[float]]:
    return [scores(engine_of(), [request])[request.request_id] for request in mixed()]


def test_a_scored_prompt_is_log_softmax_at_each_of_its_places() -> None:
    model = FakeModel()
    engine = engine_of(model)
    prompt = [5, 9, 2, 40, 41, 7, 7, 3, 60]
    request = Request(1, prompt, ALONE, targets=every_token(prompt))
    done = run(engine, [request])[1]
    assert (done.token_ids, done.finish_reason) == ([], FinishReason.STOP)
    assert engine.stats().output_tokens == 0
    for place, value in enumerate(done.target_logprobs or []):
        forced = SamplingParams(max_tokens=1, logprobs=0, allowed_token_ids=(prompt[place + 1],))
        found = run(engine_of(), [Request(1, prompt[: place + 1], forced)])[1]
        assert found.logprobs == pytest.approx([value], abs=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"enable_prefix_caching": False},
        {"max_num_batched_tokens": 3},
        {"max_num_batched_tokens": 7, "max_num_seqs": 3},
        {"num_blocks": 14, "max_num_seqs": 6},
        {"fold": False, "max_num_seqs": 1},
    ],
    ids=["plain", "unshared", "chunked", "chunked_few", "preempted", "one_by_one"],
)
def test_mixed_rows_are_scored_as_each_alone(
    alone: list[list[float]], config: dict[str, Any]
) -> None:
    engine = engine_of(**config)
    together = scores(engine, mixed())
    assert [together[i] for i in range(len(alone))] == alone
    if "num_blocks" in config:
        assert engine.stats().preemptions > 0


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_step_scores_no_more_than_it_has_memory_for(
    alone: list[list[float]], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    engine._scheduler._max_num_scored = most
    schedule, seen = Scheduler.schedule, []

    def noting(self: Scheduler) -> Any:
        step = schedule(self)
        seen.append(step.num_scored)
        return step

    monkeypatch.setattr(Scheduler, "schedule", noting)
    together = scores(engine, mixed())
    assert [together[i] for i in range(len(alone))] == alone
    assert max(seen) == most


def test_a_prefix_that_is_cached_is_computed_again_only_where_it_is_scored() -> None:
    engine = engine_of()
    prompt = list(range(30))
    run_first = Request(0, prompt, SamplingParams(max_tokens=1))
    label = Targets(29, array("i", (1, 2)), array("i", (2,)))
    engine.add(run_first)
    engine.step()
    engine.add(Request(1, prompt, ALONE, targets=label))
    done = completions_of(engine, [Request(2, prompt, ALONE, targets=every_token(prompt))])
    assert done[1].cached_tokens == 28
    assert done[2].cached_tokens == 0
    assert len(done[2].target_logprobs or []) == 29


@pytest.mark.parametrize("depth", [0, 1])
def test_steps_that_fail_change_no_score(alone: list[list[float]], depth: int) -> None:
    engine = engine_of(FailingModel(MemoryError("out of memory"), at=(2, 5)))
    engine._depth = depth
    together = scores(engine, mixed())
    assert [together[i] for i in range(len(alone))] == alone
    assert engine.stats().oom_events == 2


def test_a_prompt_with_a_place_that_is_no_number_is_an_error_row() -> None:
    class Broken(FakeModel):
        def _logits(self, row: int, length: int, metadata: Any) -> torch.Tensor:
            found = super()._logits(row, length, metadata)
            return found * float("nan") if length == 2 else found

    prompt = [1, 2, 3, 4]
    done = run(engine_of(Broken()), [Request(1, prompt, ALONE, targets=every_token(prompt))])[1]
    assert str(done.error_code) == "nan_logits"


def test_targets_and_their_scores_cross_to_an_engine_of_another_process() -> None:
    ours, theirs = Pipe()
    prompt = [3, 1, 4]
    request = Request(1, prompt, ALONE, targets=replace(every_token(prompt), top=2))
    done = Completion(
        1, [], FinishReason.STOP, target_logprobs=[-1.0, -0.5], target_tops=[[(1, -0.5)], []]
    )
    for message in (Add([request]), Report([done], [], EngineStats())):
        Wire(ours).send(message)
        assert Wire(theirs).receive() == message


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), budget=st.integers(1, 40), blocks=st.integers(12, 60))
def test_any_mix_of_rows_is_scored_as_each_alone(seed: int, budget: int, blocks: int) -> None:
    rows = mixed(seed, 8)
    engine = engine_of(max_num_batched_tokens=budget, num_blocks=blocks, max_num_seqs=4)
    together = run(engine, rows)
    for row in rows:
        single = run(engine_of(), [row])[row.request_id]
        assert together[row.request_id].target_logprobs == single.target_logprobs
        assert together[row.request_id].token_ids == single.token_ids
        assert together[row.request_id].logprobs == single.logprobs


@given(
    st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([3, 1000]), st.sampled_from([1, 5, 9])
)
def test_the_likeliest_are_those_of_a_stable_sort(
    num_rows: int, seed: int, values: int, most: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, values, (num_rows, 40), generator=draw).float()
    rows[0, 5:] = -torch.inf
    ordered = torch.sort(rows, dim=-1, descending=True, stable=True)
    found, places = likeliest(rows, most)
    assert torch.equal(places, ordered.indices[:, :most])
    assert torch.equal(found, ordered.values[:, :most])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_each_target_is_looked_up_where_its_position_is_computed(seed: int) -> None:
    rng, step = random.Random(seed), ScheduledStep()
    expected: list[tuple[int, int]] = []  # packed position, token
    counts, before = [], 0
    for row in range(rng.randint(1, 6)):
        length, start, tokens = rng.randint(2, 9), rng.randint(0, 5), rng.randint(1, 7)
        sizes = [rng.randint(0, 3) for _ in range(length)]
        ids = [rng.randrange(100) for _ in range(sum(sizes))]
        targets = Targets(rng.randint(0, 6), array("i", ids), array("i", accumulate(sizes)))
        step.sequences.append(Sequence(Request(row, [1], ALONE, targets=targets), 99))
        step.starts.append(start)
        step.num_tokens.append(tokens)
        begin, end = scored_range(targets, start, start + tokens)
        if begin < end:
            step.scored.append(ScoredRow(row, begin, end))
            own = [
                (before + place - start, token)
                for place in range(begin, end)
                for token in ids[targets.within(place, place + 1)]
            ]
            expected += own
            counts.append(len(own))
        before += tokens
    if not step.scored:
        return
    places = scored_indices(step)
    rows, ids_wanted, found_counts = _wanted(step)
    assert list(zip(places[rows].tolist(), ids_wanted.tolist(), strict=True)) == expected
    assert list(found_counts) == counts
