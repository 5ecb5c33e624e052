"""Which requests find the log-probabilities of labels, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.engine.request import Completion, FinishReason
from batchgen.errors import RowError
from batchgen.job.decisions.decisions import Decisions
from batchgen.job.decisions.labels import Ways, plan_labels

END = 99


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    labels=st.lists(
        st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple),
        min_size=2, max_size=6, unique=True,
    ),
    cut=st.integers(0, 2),
)  # fmt: skip
def test_any_labels_are_found_by_their_ways(
    prompt: list[int], labels: list[tuple[int, ...]], cut: int
) -> None:
    """Against a model whose log-probabilities are a function of all that came before."""

    def logprob(before: Sequence[int], token: int) -> float:
        return -(hash((tuple(before), token)) % 1000) / 500 - 0.1

    kept = prompt[: max(1, len(prompt) - cut)]
    merged = (
        10 if len(kept) < len(prompt) else 0
    )  # a label's first token took the prompt's last ones
    joined = [[*kept, merged + label[0], *label[1:]] for label in labels]
    names = ["".join(map(str, label)) for label in labels]
    ways = plan_labels(names, prompt, joined, [END])
    completions = []
    for number, (ids, targets) in enumerate(ways.requests):
        assert targets.last == len(ids)
        values = [
            logprob(ids[: place + 1], token)
            for place in range(targets.first, targets.last)
            for token in targets.token_ids[targets.within(place, place + 1)]
        ]
        done = Completion(number, [], FinishReason.STOP, target_logprobs=values)
        completions.append(done)
    (answer,) = Decisions((ways,)).made(completions)
    ended = any(a != b and b.startswith(a) for a in names for b in names)
    shared = min(
        next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), len(prompt))
        for ids in joined
    )
    for ids, found in zip(joined, answer.logprobs, strict=True):
        total = sum(logprob(ids[:i], ids[i]) for i in range(shared, len(ids)))
        assert found == pytest.approx(total + ended * logprob(ids, END))
    nodes = [node for _, targets in ways.requests for node in targets.token_ids]
    assert len(nodes) <= sum(map(len, labels)) + len(labels)


def test_labels_of_one_token_are_one_request_scored_at_its_last_place() -> None:
    ways = plan_labels(["a", "b", "c"], [5, 6], [[5, 6, 1], [5, 6, 2], [5, 6, 3]], [])
    ((ids, targets),) = ways.requests
    assert (list(ids), targets.first, list(targets.token_ids)) == ([5, 6], 1, [1, 2, 3])


def test_labels_that_need_an_end_need_a_model_that_has_one() -> None:
    joined = [[5, 1], [5, 1, 2]]
    with pytest.raises(RowError, match="begins another"):
        plan_labels(["good", "good enough"], [5], joined, [])
    with pytest.raises(RowError, match="makes the same"):
        plan_labels(["a", "b"], [5], [[5, 1], [5, 1]], [9])


def test_rows_with_the_same_labels_share_their_plan_and_each_has_its_own_context() -> None:
    def ways(*prompt: int, last: int = 3) -> Ways:
        joined = [[*prompt, 1], [*prompt, 2, last]]
        return plan_labels(["a", "bc"], [*prompt], joined, [END])

    one, other, unlike = ways(5), ways(6, 7), ways(6, 7, last=4)
    assert one.labels is other.labels
    assert [list(ids) for ids, _ in other.requests] == [[6, 7, 2]]
    assert [(targets.first, targets.last) for _, targets in other.requests] == [(1, 3)]
    assert [targets.first for _, targets in one.requests] == [0]
    assert [label.token_ids for label in unlike.labels] == [(1,), (2, 4)]
