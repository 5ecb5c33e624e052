"""The sampler in a GPU's graphs gives any mix of rows the tokens of the definition in `sampler`."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from triton_interpreter import INTERPRETED, direct

pytest.importorskip("triton", reason="triton is not installed: no CUDA sampler to test")

from batchgen.engine.draws import draw_key
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.sampling.sampler import sample
from batchgen.engine.sampling.table import SamplingTable
from batchgen.engine.sampling.triton.sampler import DeviceSampler
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
CPU = torch.device("cpu")
EOS = 5
BIG = [(64, 600), (64, 5000), (256, 151_936)]


def sequence_of(params: SamplingParams, number: int = 0, output: tuple[int, ...] = ()) -> Sequence:
    key = draw_key(3, str(number), 0)
    request = Request(number, [3, 4, 4, 7], params, draw_key=key, output_token_ids=output)
    return Sequence(request, 400, frozenset({EOS}), device_counts=True)


class Both:
    """The same sequences on the device and by the definition; slots 1, 2, ... of both."""

    def __init__(self, sequences: list[Sequence], vocab: int) -> None:
        self.sequences = sequences
        self.device = DeviceSampler(len(sequences) + 2, len(sequences) + 3, vocab, DEVICE)
        self.definition = SamplingTable(len(sequences) + 2, vocab, CPU)
        self.admitted = sequences

    def step(self, logits: torch.Tensor) -> tuple[list[int], list[int], Any, Any]:
        """One token a row; padding follows the rows."""
        step = ScheduledStep(admitted=self.admitted)
        for slot, sequence in enumerate(self.sequences):
            sequence.slot = slot + 1
            step.add(sequence, sequence.num_uncomputed_tokens)
        self.admitted = []
        self.definition.admit(step)
        expected = sample(logits.float().cpu().clone(), self.definition.gather(step))
        self.device.admit(step)
        self.device.prepare(step)
        rows, trash = len(logits), len(self.sequences) + 2
        slots = torch.tensor([*step.slots, trash, trash], dtype=torch.int32, device=DEVICE)
        places = torch.tensor([*step.output_positions, 0, 0], dtype=torch.int32, device=DEVICE)
        padded = torch.cat((logits, logits[:1], logits[:1]))
        tokens, usable = self.device.choose(padded, slots, places)
        assert usable[:rows].tolist() == expected.usable.tolist()
        report = self.device.report(step)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return tokens[:rows].tolist(), expected.tokens.tolist(), report, expected

    def deliver(self, tokens: list[int]) -> None:
        for sequence, token in zip(self.sequences, tokens, strict=True):
            sequence.num_pending -= 1
            sequence.token_ids.append(token)
            sequence.output_token_ids.append(token)


def logits_of(rows: int, vocab: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab, generator=draw) * scale).to(DEVICE)


def random_params(rng: random.Random, vocab: int) -> SamplingParams:
    pick = rng.choice
    return SamplingParams(
        temperature=pick([0.0, 0.0, 0.5, 1.0, 1.7]),
        top_k=pick([0, 0, 1, 20, 300, vocab + 9]),
        top_p=pick([1.0, 1.0, 0.5, 0.95]),
        min_p=pick([0.0, 0.0, 0.1]),
        repetition_penalty=pick([1.0, 1.0, 1.3, 0.8]),
        presence_penalty=pick([0.0, 0.0, 0.7]),
        frequency_penalty=pick([0.0, 0.0, 0.3]),
        min_tokens=pick([0, 0, 2]),
        logit_bias=pick([(), (), ((9, 4.0), (11, -100.0), (vocab, 5.0))]),
        allowed_token_ids=pick([(), (), (), tuple(range(0, vocab, 3))]),
        bad_words=pick([(), (), ((8,), (4, 9))]),
        no_repeat_ngram_size=pick([0, 0, 0, 2]),
        logprobs=pick([None, None, 0]),
        top_logprobs=pick([0, 0, 5]),
        stop_token_ids=(12,),
    )


@direct
@pytest.mark.parametrize(("rows", "vocab"), [(9, 600), (4, 5000)] if INTERPRETED else BIG)
def test_any_mix_of_rows_over_several_steps(rows: int, vocab: int) -> None:
    rng = random.Random(vocab)
    sequences = [sequence_of(random_params(rng, vocab), i, (9, i, 9)[: i % 4]) for i in range(rows)]
    both = Both(sequences, vocab)
    for step in range(2 if INTERPRETED else 6):
        got, expected, report, defined = both.step(logits_of(rows, vocab, step))
        wrong = sum(a != b for a, b in zip(got, expected, strict=True))
        assert wrong <= rows // 100  # a draw next to a border, by rounding: none of a few rows
        wanting = [i for i, s in enumerate(sequences) if s.request.params.logprobs is not None]
        same = [i for i in wanting if got[i] == expected[i]]
        assert torch.allclose(report.logprobs[same], defined.logprobs[same], atol=3e-5)
        for ours, theirs in zip(
            report.top_lists(list(range(rows))), defined.top.to_lists(), strict=True
        ):
            assert [token for token, _ in ours] == [token for token, _ in theirs]
            assert [v for _, v in ours] == pytest.approx([v for _, v in theirs], abs=3e-5)
        both.deliver(expected)


FILTERS = [
    {"top_k": 40},
    {"top_k": 40, "top_p": 0.8},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.2},
    {"min_p": 1e-6},
    {"top_k": 1500},
    {"top_k": 1500, "top_p": 0.9, "min_p": 0.001},
    {"top_p": 1e-9},
]


@direct
@pytest.mark.parametrize("scale", [0.01, 4.0])  # flat: the floor lies beyond the largest parts
def test_every_filter_finds_its_floor(scale: float) -> None:
    vocab = 3000 if INTERPRETED else 151_936
    sequences = [
        sequence_of(SamplingParams(temperature=0.8, **values), i)  # type: ignore[arg-type]
        for i, values in enumerate(FILTERS)
    ]
    both = Both(sequences, vocab)
    for step in range(1 if INTERPRETED else 20):
        got, expected, *_ = both.step(logits_of(len(sequences), vocab, step, scale))
        wrong = sum(a != b for a, b in zip(got, expected, strict=True))
        assert wrong <= (0 if INTERPRETED else 1)  # a draw next to a border, by rounding
        both.deliver(expected)


@direct
@pytest.mark.parametrize("values", [{"top_k": 3}, {"top_p": 0.3}, {"min_p": 1.0}], ids=str)
def test_equal_scores_at_the_border_are_all_kept(values: dict[str, Any]) -> None:
    vocab, rows = 200, 5 if INTERPRETED else 60
    logits = torch.zeros(rows, vocab)
    logits[:, 50:60] = 3.0  # ten of the largest
    sequences = [sequence_of(SamplingParams(temperature=1.0, **values), i) for i in range(rows)]
    got, expected, *_ = Both(sequences, vocab).step(logits.to(DEVICE))
    assert got == expected
    assert {50 <= token < 60 for token in got} == {True}
    assert len(set(got)) > (1 if INTERPRETED else 5)
    logits = torch.zeros(rows, vocab, device=DEVICE)
    sequences = [sequence_of(SamplingParams(temperature=1.0, **values), i) for i in range(rows)]
    got, expected, *_ = Both(sequences, vocab).step(logits)
    assert got == expected
    assert max(got) > 100


@direct
def test_plain_rows_have_the_tokens_of_the_greedy_kernel() -> None:
    from batchgen.engine.sampling.triton.choose_kernel import greedy_tokens

    logits = logits_of(6, 700, 1).bfloat16()
    mixed = SamplingParams(temperature=1.0, top_p=0.5, repetition_penalty=1.2)
    sequences = [sequence_of(SamplingParams() if i % 2 else mixed, i) for i in range(6)]
    logits[3, 5] = float("nan")
    got, *_ = Both(sequences, 700).step(logits)
    tokens, _ = greedy_tokens(logits)
    assert got[1::2] == tokens.tolist()[1::2]


@pytest.mark.skipif(not INTERPRETED, reason="addresses are seen by the interpreter")
@pytest.mark.parametrize("vocab", [600, 4096, 8192])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")], ids=str)
def test_rows_without_a_number_are_read_where_they_are(
    vocab: int, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though most likely tokens are asked of them, and none is likely."""
    from triton.runtime.interpreter import InterpreterBuilder

    read = InterpreterBuilder.create_masked_load
    logits = torch.full((3 * vocab + 8192,), value)
    begin, size = logits.data_ptr() + 4 * 4096, 4 * 3 * vocab
    near: list[int] = []

    def watched(self: Any, places: Any, mask: Any, *rest: Any) -> Any:
        where = places.data.astype("int64")[mask.data.astype(bool)] - begin
        near.extend(where[(where >= -4 * 4096) & (where < size + 4 * 4096)].tolist())
        return read(self, places, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", watched)
    sampling = SamplingParams(top_logprobs=3, logprobs=0)
    both = Both([sequence_of(sampling), sequence_of(replace(sampling, temperature=1.0), 1)], vocab)
    choose = both.device.choose
    rows = logits[4096 : 4096 + 3 * vocab].view(3, vocab)
    monkeypatch.setattr(both.device, "choose", lambda _, *named: choose(rows, *named))
    both.step(rows[:2])
    assert near
    assert 0 <= min(near) <= max(near) < size


@direct
def test_what_is_forbidden_may_be_infinite() -> None:
    """The report is of logits before the mask, as the definition has it."""
    params = SamplingParams(allowed_token_ids=(3, 4), logprobs=0)
    logits = logits_of(1, 600, 4)
    logits[0, 9] = torch.inf
    got, expected, report, defined = Both([sequence_of(params)], 600).step(logits)
    assert got == expected
    assert report.logprobs.tolist() == defined.logprobs.tolist() == [-torch.inf]


@direct
def test_a_step_that_is_run_again_counts_its_tokens_once() -> None:
    params = SamplingParams(frequency_penalty=0.5)
    sequence = sequence_of(params)
    both = Both([sequence], 600)
    logits = logits_of(1, 600, 4)
    for _ in range(2):  # the first try's token never came back
        got, expected, *_ = both.step(logits)
        assert got == expected
        sequence.num_pending -= 1
        sequence.num_computed_tokens -= 1
    assert both.device.tables.counts is not None
    assert int(both.device.tables.counts[1, got[0]]) >> 1 == 1


@direct
def test_a_slot_keeps_nothing_of_the_sequence_before() -> None:
    first = sequence_of(
        SamplingParams(
            logit_bias=((7, 99.0),), frequency_penalty=1.0, min_tokens=9, bad_words=((1,),)
        )
    )
    both = Both([first], 600)
    logits = logits_of(1, 600, 4)
    both.step(logits)
    for params in (SamplingParams(logprobs=0), SamplingParams(frequency_penalty=0.1)):
        both.sequences = both.admitted = [sequence_of(params, 1)]
        got, expected, *_ = both.step(logits)
        assert got == expected


@pytest.mark.cuda
@pytest.mark.parametrize(
    "values",
    [{}, {"top_k": 8}, {"top_p": 0.7}, {"min_p": 0.2}, {"repetition_penalty": 1.5, "top_k": 12},
     {"logit_bias": ((3, 1.0), (50, 2.0)), "presence_penalty": 0.5, "top_p": 0.9}],
    ids=str,
)  # fmt: skip
def test_frequencies_of_draws_are_the_probabilities_of_the_reference(values: Any) -> None:
    """Chi-square over many keys of one row of logits, against transformers' processors."""
    from transformers.generation import logits_process as hf

    vocab, rows = 64, 20_000
    logits = logits_of(1, vocab, 6, 1.5)
    params = SamplingParams(temperature=1.3, **values)
    sequences = [sequence_of(params, i, (9, 9)) for i in range(rows)]
    got, *_ = Both(sequences, vocab).step(logits.expand(rows, -1).contiguous())
    ids = torch.tensor([[3, 4, 4, 7, 9, 9]])
    kept = logits.cpu().clone()
    for token, bias in params.logit_bias:
        kept[:, token] += bias
    if params.repetition_penalty != 1.0:
        kept = hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(ids, kept)  # type: ignore[arg-type]
    kept[:, 9] -= params.presence_penalty
    kept = kept / 1.3
    if params.top_k:
        kept = hf.TopKLogitsWarper(params.top_k)(ids, kept)  # type: ignore[arg-type]
    if params.top_p < 1:
        kept = hf.TopPLogitsWarper(params.top_p)(ids, kept)  # type: ignore[arg-type]
    if params.min_p:
        kept = hf.MinPLogitsWarper(params.min_p)(ids, kept)  # type: ignore[arg-type]
    expected = kept.softmax(-1)[0].double() * rows
    seen = torch.bincount(torch.tensor(got), minlength=vocab).double()
    assert not bool(seen[expected == 0].any())
    common, rare = expected >= 5, (expected > 0) & (expected < 5)
    cells = ((seen - expected)[common] ** 2 / expected[common]).sum()
    if bool(rare.any()):
        cells += (seen[rare].sum() - expected[rare].sum()) ** 2 / expected[rare].sum()
    degrees = int(common.sum()) + int(bool(rare.any())) - 1
    assert float(cells) < degrees + 4.5 * (2 * max(degrees, 1)) ** 0.5 + 5
