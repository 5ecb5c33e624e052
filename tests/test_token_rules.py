"""Bias, bad words, allowed ids, n-grams, masks and top logprobs: equal to transformers' processors
on the same logits."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from engine_runs import completions_of, sampled
from fake_model import VOCAB_SIZE, FakeModel
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from batchgen.engine.execution.step_runner import EagerRunner
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.sampling.filters import keep_allowed
from batchgen.engine.sampling.rules import AllowedTokens, TokenRules, mask_of
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence

VOCAB = 70  # no multiple of 32
TOKENS = st.integers(0, 5)


def sequence_of(params: SamplingParams, output: Ids[int] = (), **more: object) -> Sequence:
    request = Request(0, [3, 4, 4], params, output_token_ids=output, **more)  # type: ignore[arg-type]
    return Sequence(request, 3 + len(output) + 10)


def kept(sequence: Sequence) -> set[int]:
    words = TokenRules(sequence.request, VOCAB).mask(sequence)
    if words is None:
        return set(range(VOCAB))
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:VOCAB]
    return set(np.flatnonzero(bits).tolist())


def kept_by(processor: hf.LogitsProcessor, ids: Ids[int]) -> set[int]:
    scores = processor(torch.tensor([list(ids)]), torch.zeros(1, VOCAB))  # type: ignore[arg-type]
    return set(scores[0].isfinite().nonzero().flatten().tolist())


@settings(max_examples=150, deadline=None)
@given(st.lists(TOKENS, max_size=12), st.integers(1, 5))
def test_no_ngram_comes_again_as_in_transformers(output: list[int], size: int) -> None:
    sequence = sequence_of(SamplingParams(no_repeat_ngram_size=size), output)
    expected = kept_by(hf.NoRepeatNGramLogitsProcessor(size), sequence.token_ids)
    assert kept(sequence) == expected


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TOKENS, min_size=3, max_size=9),
    st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=4),
)
def test_bad_words_are_never_completed_as_in_transformers(
    output: list[int], words: list[list[int]]
) -> None:
    params = SamplingParams(bad_words=tuple(map(tuple, words)))
    sequence = sequence_of(params, output)
    expected = kept_by(hf.NoBadWordsLogitsProcessor(words), sequence.token_ids)
    assert kept(sequence) == expected


def test_a_bad_word_as_long_as_all_tokens_there_are_is_not_completed() -> None:
    """transformers lets it pass before 5.24."""
    words = ((3, 4, 4, 0), (4, 4, 1), (3, 3, 4, 4, 2))
    assert set(range(VOCAB)) - kept(sequence_of(SamplingParams(bad_words=words))) == {0, 1}


def test_rules_that_saw_an_output_grow_say_what_fresh_ones_say() -> None:
    params = SamplingParams(no_repeat_ngram_size=2)
    sequence = sequence_of(params)
    rules = TokenRules(sequence.request, VOCAB)
    for token in (4, 3, 4, 9, 4, 4, 4):
        sequence.token_ids.append(token)
        grown, fresh = rules.mask(sequence), TokenRules(sequence.request, VOCAB).mask(sequence)
        assert (grown is None) == (fresh is None)
        assert grown is None or (grown == fresh).all()


def test_a_bias_is_added_before_penalties_as_in_transformers() -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(1))
    for bias in (((4, 9.0), (7, 8.0)), ((4, 30.0), (7, 28.0)), ((4, -100.0), (7, 5.0))):
        params = SamplingParams(logit_bias=(*bias, (VOCAB + 9, 99.0)), repetition_penalty=1.5)
        ids = torch.tensor([[3, 4, 4]])
        biased = hf.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias])
        expected = biased(ids, logits.clone())  # type: ignore[arg-type]
        expected = hf.RepetitionPenaltyLogitsProcessor(1.5)(ids, expected)  # type: ignore[arg-type]
        token = int(sampled([sequence_of(params)], logits).tokens)
        assert token == int(expected.argmax())


def test_allowed_tokens_are_the_only_ones_and_neighbours_keep_theirs() -> None:
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(2))
    logits[:, 11] = 50.0
    some = SamplingParams(allowed_token_ids=(5, 69, 500))
    but = SamplingParams(allowed_token_ids=(5, 69), bad_words=((69,),))
    tokens = sampled([sequence_of(p) for p in (some, SamplingParams(), but)], logits).tokens
    assert tokens.tolist() == [5 if logits[0, 5] > logits[0, 69] else 69, 11, 5]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 100), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_mask_bans_what_a_fill_over_copies_bans(vocab: int, count: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(count + 1, vocab, generator=draw)
    bits = torch.rand(count, vocab, generator=draw) < 0.5
    logits[:, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])[seed % 3]
    expected = logits.clone()
    expected[1:] = expected[1:].masked_fill(~bits, -torch.inf)
    rows = list(range(1, count + 1))
    words = np.stack([mask_of(row.nonzero()[:, 0].tolist(), vocab) for row in bits])
    keep_allowed(logits, AllowedTokens(rows, words))
    assert logits[0].equal(expected[0]) or logits[0, 0].isnan()
    finite = expected[1:].isfinite() | (expected[1:] == -torch.inf)
    assert logits[1:][finite].equal(expected[1:][finite])
    assert logits[1:].amax(1).isfinite().equal(expected[1:].amax(1).isfinite())  # NaN is told


def test_a_row_that_may_take_nothing_is_unusable_alone() -> None:
    none = SamplingParams(allowed_token_ids=(5,), bad_words=((5,),), temperature=1.0)
    result = sampled([sequence_of(none), sequence_of(SamplingParams())], torch.zeros(2, VOCAB))
    assert result.usable.tolist() == [False, True]


def test_top_logprobs_are_the_largest_before_processors_and_of_equals_the_first() -> None:
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(3))
    logits[0, [8, 60]] = 9.0
    params = SamplingParams(top_logprobs=3, logprobs=0, logit_bias=((1, 99.0),))
    one = SamplingParams(top_logprobs=1)
    result = sampled([sequence_of(params), sequence_of(one)], logits)
    assert result.tokens.tolist()[0] == 1
    assert result.top is not None
    first, second = result.top.to_lists()
    assert [token for token, _ in first[:2]] == [8, 60]
    expected = logits.log_softmax(-1)
    assert [value for _, value in first] == pytest.approx(expected[0].topk(3).values.tolist())
    assert second == [(int(logits[1].argmax()), pytest.approx(float(expected[1].max())))]


@dataclass
class Alternating:
    """A grammar of two tokens that take turns; after six, every token."""

    seen: list[int]
    length: int = 0

    def advance(self, token: int, room: int) -> bool:
        self.length += 1
        return False

    def steer(self, mask: np.ndarray, room: int) -> None:
        pass

    def refuses(self, token: int, room: int) -> bool:
        return False

    def is_steered(self, room: int) -> bool:
        return False

    def fill(self, mask: np.ndarray) -> bool:
        self.seen.append(self.length)
        if self.length >= 6:
            return False
        mask[:] = mask_of([10 + self.length % 2], VOCAB_SIZE)
        return True


def small_engine(model: FakeModel, depth: int) -> LLMEngine:
    model.allocate_cache(50, 4)
    scheduler = Scheduler(BlockManager(50, 4), 4, 32)
    runner = EagerRunner(model, scheduler.num_slots, 64, 4)
    return LLMEngine(scheduler, runner, max_model_len=64, vocab_size=VOCAB_SIZE, depth=depth)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_grammar_masks_its_own_row_at_every_place(depth: int) -> None:
    engine = small_engine(FakeModel(), depth)
    mask = Alternating([])
    params = SamplingParams(max_tokens=9, top_logprobs=2)
    plain = Request(0, [1, 2, 3], SamplingParams(max_tokens=9))
    alone = completions_of(engine, [plain])[0].token_ids
    done = completions_of(engine, [plain, Request(1, [1, 2, 3], params, constraint=lambda: mask)])
    assert done[0].token_ids == alone
    assert done[1].token_ids[:6] == [10, 11] * 3
    assert mask.seen == list(range(9))
    top = done[1].top_logprobs
    assert top is not None
    assert [len(place) for place in top] == [2] * 9
    assert done[0].top_logprobs is None


ONLY_FIVE = {"allowed_token_ids": (5,), "bad_words": ((5,),)}


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    ("params", "said"),
    [
        (ONLY_FIVE, "allowed_token_ids and bad_words together allow no token to begin with"),
        (
            {"allowed_token_ids": (5, 6), "no_repeat_ngram_size": 1},
            "allowed_token_ids and no_repeat_ngram_size together allow no token at the 3. token",
        ),
        ({"allowed_token_ids": (9,), "stop_token_ids": (9,), "min_tokens": 2}, "min_tokens"),
    ],
    ids=("banned", "ngrams", "min_tokens"),
)
def test_settings_that_leave_no_token_are_named_and_fail_their_row_alone(
    params: dict[str, Any], said: str, depth: int
) -> None:
    engine = small_engine(FakeModel(), depth)
    given = SamplingParams(max_tokens=9, **params)
    plain = Request(0, [1, 2, 3], SamplingParams(max_tokens=9))
    done = completions_of(engine, [plain, Request(1, [1, 2, 3], given)])
    assert (done[0].error_code, len(done[0].token_ids)) == (None, 9)
    assert done[1].error_code == "no_allowed_token"
    assert said in str(done[1].error_message)


class NanModel(FakeModel):
    def forward(self, *given: Any) -> torch.Tensor:
        return super().forward(*given).fill_(torch.nan)


def test_nan_is_called_nan_where_settings_leave_some_token() -> None:
    requests = [
        Request(i, [1, 2], SamplingParams(max_tokens=3, **params))
        for i, params in enumerate([{}, {"allowed_token_ids": (5, 6)}, ONLY_FIVE])
    ]
    done = completions_of(small_engine(NanModel(), 0), requests)
    codes = [str(done[i].error_code) for i in range(3)]
    assert codes == ["nan_logits", "nan_logits", "no_allowed_token"]
