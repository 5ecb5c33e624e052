from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_runs import sampled
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from batchgen.engine.draws import draw_key, uniform
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.sampling import filters
from batchgen.engine.sampling.batch import SamplingBatch
from batchgen.engine.sampling.row_search import first_above, largest, row_max
from batchgen.engine.sampling.sampler import log_total, sample
from batchgen.engine.sampling.table import SamplingTable
from batchgen.engine.sampling.uniform import uniform as device_uniform
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep

VOCAB = 1500
EOS = 5
CPU = torch.device("cpu")


def _logits(num_rows: int, seed: int = 0, vocab_size: int = VOCAB) -> torch.Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 4


def _sequence(params: SamplingParams, key: int = 1, output: tuple[int, ...] = ()) -> Sequence:
    request = Request(key, [3, 4, 4, 7], params, draw_key=key, output_token_ids=output)
    return Sequence(request, 4 + params.max_tokens, frozenset({EOS}))


def _above(logits: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(logits < floor, -torch.inf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_takes_the_most_likely_token(dtype: torch.dtype) -> None:
    logits = _logits(5).to(dtype)
    found = sampled([_sequence(SamplingParams()) for _ in range(5)], logits)
    assert found.tokens.tolist() == logits.float().argmax(-1).tolist()
    assert found.usable.all()
    assert found.logprobs is None


def test_draws_on_a_device_are_the_draws_of_the_host() -> None:
    keys = [draw_key(seed, f"={row}", 0) for seed in (0, 7) for row in range(50)]
    keys += [0, 1, 2**63 - 1, 2**63, 2**64 - 1]
    signed = [key - 2**64 if key >= 2**63 else key for key in keys]
    for position in (0, 1, 2, 255, 100_000):
        expected = [uniform(key, position) for key in keys]
        drawn = device_uniform(torch.tensor(signed), torch.full((len(keys),), position))
        assert drawn.tolist() == expected


def test_draws_are_uniform() -> None:
    keys = torch.arange(200_000) * 7919
    drawn = device_uniform(keys, torch.zeros_like(keys))
    counts = torch.histc(drawn, bins=20, min=0, max=1)
    assert float(((counts - 10_000) ** 2 / 10_000).sum()) < 50  # chi-squared, 19 degrees of freedom


@pytest.mark.parametrize("top_k", [1, 2, 50, 1400])
def test_top_k_is_that_of_transformers(top_k: int) -> None:
    logits = _logits(8)
    expected = hf.TopKLogitsWarper(top_k)(None, logits.clone())  # type: ignore[arg-type]
    floor = filters.top_k_floor(logits, torch.full((8,), top_k), top_k)
    assert torch.equal(_above(logits, floor), expected)


@pytest.mark.parametrize("top_p", [0.001, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("flatness", [1.0, 1000.0])  # flat: the nucleus exceeds the candidates
def test_top_p_is_that_of_transformers(top_p: float, flatness: float) -> None:
    logits = _logits(8) / flatness
    expected = hf.TopPLogitsWarper(top_p)(None, logits.clone())  # type: ignore[arg-type]
    best = logits.amax(-1, keepdim=True)
    shares = torch.full((8,), top_p, dtype=torch.float64)
    floor = filters.top_p_floor(logits, torch.exp(logits - best), best, shares)
    differing = (_above(logits, floor) != expected).sum(-1)
    assert int(differing.max()) <= 1  # float32 sums there, float64 here: at the border alone
    if top_p < 0.99 and flatness == 1.0:
        assert int(differing.max()) == 0


@pytest.mark.parametrize("min_p", [0.0001, 0.05, 0.5, 1.0])
def test_min_p_is_that_of_transformers(min_p: float) -> None:
    logits = _logits(8)
    expected = hf.MinPLogitsWarper(min_p)(None, logits.clone())  # type: ignore[arg-type]
    floor = filters.min_p_floor(logits.amax(-1, keepdim=True), torch.full((8,), min_p))
    assert torch.equal(_above(logits, floor), expected)


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_repetition_penalty_is_that_of_transformers_over_prompt_and_output(penalty: float) -> None:
    params = SamplingParams(repetition_penalty=penalty)
    logits = _logits(40)
    sequences = [_sequence(params, output=(i, i, 9)) for i in range(40)]
    ids = torch.tensor([list(s.token_ids) for s in sequences])
    expected = hf.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())  # type: ignore[arg-type]
    logits[:, 3] = logits.max() + 1  # so that the penalty decides
    expected[:, 3] = logits[:, 3] / penalty
    assert sampled(sequences, logits).tokens.tolist() == expected.argmax(-1).tolist()


def test_presence_and_frequency_count_the_output_alone() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, 4] = 3.0  # twice in the prompt
    logits[:, 9] = 4.5  # twice in the output
    logits[:, 8] = 3.5  # once in the output
    one = replace(SamplingParams(), presence_penalty=1.0)
    frequent = replace(SamplingParams(), frequency_penalty=0.6)
    sequences = [_sequence(params, output=(9, 8, 9)) for params in (one, frequent)]
    # presence: 9 -> 3.5, 8 -> 2.5; frequency: 9 -> 3.3, 8 -> 2.9
    assert sampled(sequences, logits).tokens.tolist() == [9, 9]
    logits[:, 9] = 3.9  # presence 2.9, frequency 2.7: both below the prompt's token
    assert sampled(sequences, logits).tokens.tolist() == [4, 4]


def test_the_chain_of_processors_keeps_the_tokens_that_transformers_keeps() -> None:
    params = SamplingParams(
        temperature=0.7, top_k=40, top_p=0.9, min_p=0.02, repetition_penalty=1.2, max_tokens=4000
    )
    logits = _logits(1)
    ids = torch.tensor([[3, 4, 4, 7]])
    kept = hf.RepetitionPenaltyLogitsProcessor(1.2)(ids, logits.clone())  # type: ignore[arg-type]
    kept = hf.TemperatureLogitsWarper(0.7)(ids, kept)  # type: ignore[arg-type]
    for warper in (hf.TopKLogitsWarper(40), hf.TopPLogitsWarper(0.9), hf.MinPLogitsWarper(0.02)):
        kept = warper(ids, kept)  # type: ignore[arg-type]
    sequences = [_sequence(params, key=key) for key in range(3000)]
    tokens = sampled(sequences, logits.expand(3000, -1)).tokens
    counts = torch.bincount(tokens, minlength=VOCAB) / 3000
    expected = kept.softmax(-1)[0]
    assert (counts > 0).nonzero().flatten().tolist() == (
        expected > 1e-3
    ).nonzero().flatten().tolist()
    assert float((counts - expected).abs().max()) < 0.03


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=600).filter(lambda p: sum(p) > 0.01),
    st.floats(0, 1, exclude_max=True),
)
def test_the_drawn_token_is_where_the_cumulative_share_passes_the_draw(
    probabilities: list[float], draw: float
) -> None:
    row = torch.tensor([probabilities])
    token = int(first_above(row, torch.tensor([draw], dtype=torch.float64)))
    share = row[0].double().cumsum(0) / row[0].double().sum()
    assert probabilities[token] > 0
    assert float(share[token]) >= draw - 1e-9
    assert token == 0 or float(share[token - 1]) <= draw + 1e-9


@pytest.mark.parametrize("vocab_size", [1, 5, 64, 256, 1000, 49152, 50257])
def test_searching_in_blocks_finds_what_a_plain_search_finds(vocab_size: int) -> None:
    rows = _logits(6, vocab_size=vocab_size).round(decimals=1)  # with equal values
    best, index = row_max(rows)
    assert torch.equal(best, rows.amax(-1))
    assert torch.equal(index, (rows == best[:, None]).to(torch.uint8).argmax(-1))
    for k in {1, min(40, vocab_size), vocab_size}:
        assert torch.equal(largest(rows, k), rows.topk(k).values)


def test_a_step_in_which_nothing_is_sampled_has_no_tokens() -> None:
    params = SamplingParams(temperature=1.0, top_k=5, top_p=0.5, repetition_penalty=1.1)
    assert sampled([], _logits(0)).tokens.shape == (0,)
    assert sample(_logits(0), SamplingBatch(logprobs=True)).tokens.shape == (0,)
    cut = _sequence(params)
    step = ScheduledStep()
    cut.slot = 0
    step.admitted.append(cut)
    step.add(cut, 2)
    batch = SamplingTable(1, VOCAB, CPU).gather(step)
    assert sample(_logits(0), batch).tokens.shape == (0,)


def test_the_largest_draw_stays_on_a_possible_token() -> None:
    row = torch.zeros(1, 700)
    row[0, [3, 299]] = torch.tensor([0.9, 1e-9])
    largest = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert int(first_above(row, largest)) == 299
    assert int(first_above(row, torch.zeros(1, dtype=torch.float64))) == 3


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 20, 5000]),
    top_p=st.sampled_from([1.0, 0.5, 0.95]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    min_tokens=st.sampled_from([0, 10]),
    logprobs=st.sampled_from([None, 0]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PARAMS, min_size=1, max_size=8), st.integers(0, 1000))
def test_a_rows_token_does_not_depend_on_its_batch_mates(
    parameters: list[SamplingParams], seed: int
) -> None:
    logits = _logits(len(parameters), seed, 600)
    sequences = [_sequence(p, key=seed + i, output=(i, 9)) for i, p in enumerate(parameters)]
    together = sampled(sequences, logits)
    for i, sequence in enumerate(sequences):
        alone = sampled([sequence], logits[i : i + 1])
        assert int(alone.tokens) == int(together.tokens[i])
        if alone.logprobs is not None and together.logprobs is not None:
            assert float(alone.logprobs) == float(together.logprobs[i])


def test_the_end_is_impossible_before_min_tokens() -> None:
    logits = _logits(3)
    logits[:, EOS] = 50.0
    logits[:, 11] = 40.0
    early = SamplingParams(min_tokens=2, stop_token_ids=(11, VOCAB + 3))
    ignoring = replace(early, ignore_eos=True)
    sequences = [_sequence(early), _sequence(ignoring), _sequence(early, output=(1, 2))]
    tokens = sampled(sequences, logits).tokens.tolist()
    assert tokens[0] not in (EOS, 11)
    assert tokens[1:] == [EOS, EOS]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_unusable_logits_are_seen_in_their_own_row_alone(temperature: float, bad: float) -> None:
    logits = _logits(4)
    clean = sampled(
        [_sequence(SamplingParams(temperature=temperature), i) for i in range(4)], logits
    )
    logits[2, 100] = bad
    found = sampled(
        [_sequence(SamplingParams(temperature=temperature), i) for i in range(4)], logits
    )
    assert found.usable.tolist() == [True, True, False, True]
    assert [found.tokens[i] == clean.tokens[i] for i in (0, 1, 3)] == [True] * 3


def test_a_row_without_any_possible_token_is_unusable() -> None:
    logits = torch.full((1, VOCAB), -torch.inf)
    assert not sampled([_sequence(SamplingParams(temperature=1.0))], logits).usable.any()


def test_logprobs_are_of_the_chosen_token_before_processors() -> None:
    logits = _logits(2)
    params = SamplingParams(temperature=2.0, top_k=3, logprobs=0)
    found = sampled([_sequence(params, i) for i in range(2)], logits)
    expected = logits.log_softmax(-1).gather(1, found.tokens[:, None])[:, 0]
    assert found.logprobs is not None
    assert torch.allclose(found.logprobs, expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_s_log_total_is_the_same_bits_in_any_batch(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = 3 * torch.randn(71, 33_000, generator=torch.Generator().manual_seed(5))
        whole = log_total(rows)
        assert torch.equal(whole, torch.logsumexp(rows, dim=-1, keepdim=True))
        for count in (1, 2, 15, 17, 33, 65):
            assert torch.equal(log_total(rows[:count]), whole[:count]), count
    finally:
        torch.set_num_threads(before)
    assert log_total(rows[:0]).shape == (0, 1)
