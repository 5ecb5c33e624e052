from __future__ import annotations

import random
import time
from typing import Any

import pytest
import torch
from engine_runs import completions_of, tokens_of
from fake_model import EOS, VOCAB_SIZE, FailingModel, FakeModel, engine_over

from batchgen.engine.draws import draw_key
from batchgen.engine.failures import is_fatal, is_out_of_memory
from batchgen.engine.request import Completion, FinishReason, Request, SamplingParams
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput
from batchgen.errors import ErrorCode, RowError

NUM_ROWS = 40


def _requests(temperature: float = 1.0, **params: Any) -> list[Request]:
    lengths = random.Random(3)
    return [
        Request(
            index,
            [1 + (index * 31 + k) % (VOCAB_SIZE - 1) for k in range(lengths.randint(1, 50))],
            SamplingParams(max_tokens=lengths.randint(1, 40), temperature=temperature, **params),
            draw_key=draw_key(7, f"={index}", 0),
        )
        for index in range(NUM_ROWS)
    ]


Tokens = dict[int, list[int]]
"""Of each request, by its id."""
PENALTIES = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "min_tokens": 5}
with_and_without_late_tokens = pytest.mark.parametrize("depth", [0, 1])


@pytest.fixture(scope="module")
def unbroken() -> Tokens:
    """One row at a time, whole prompts at once: what every other run must equal."""
    return tokens_of(completions_of(engine_over(max_num_seqs=1), _requests()))


@pytest.fixture(scope="module")
def unbroken_with_penalties() -> Tokens:
    return tokens_of(completions_of(engine_over(max_num_seqs=1), _requests(**PENALTIES)))


@with_and_without_late_tokens
@pytest.mark.parametrize("max_num_seqs", [3, 16, 64])
def test_tokens_at_temperature_1_do_not_depend_on_batch_size_order_or_late_tokens(
    unbroken: Tokens, max_num_seqs: int, depth: int
) -> None:
    requests = _requests()
    random.Random(max_num_seqs).shuffle(requests)
    completions = completions_of(engine_over(max_num_seqs=max_num_seqs, depth=depth), requests)
    assert tokens_of(completions) == unbroken
    assert {c.finish_reason for c in completions.values()} == {
        FinishReason.STOP,
        FinishReason.LENGTH,
    }


@with_and_without_late_tokens
def test_forced_preemption_changes_no_token(unbroken: Tokens, depth: int) -> None:
    engine = engine_over(num_blocks=30, depth=depth)
    completions = completions_of(engine, _requests())
    assert engine.stats().preemptions > 10
    assert sum(c.preemptions for c in completions.values()) == engine.stats().preemptions
    assert tokens_of(completions) == unbroken


@with_and_without_late_tokens
@pytest.mark.parametrize("budget", [1, 7, 13])
def test_prompts_cut_at_any_offset_change_no_token(
    unbroken: Tokens, budget: int, depth: int
) -> None:
    model = FakeModel()
    engine = engine_over(model, max_num_batched_tokens=budget, depth=depth)
    assert tokens_of(completions_of(engine, _requests())) == unbroken
    assert max(model.num_tokens_of_steps) == budget


@with_and_without_late_tokens
def test_late_tokens_equal_early_ones_with_penalties_and_min_tokens(
    unbroken_with_penalties: Tokens, depth: int
) -> None:
    completions = completions_of(engine_over(depth=depth), _requests(**PENALTIES))
    assert tokens_of(completions) == unbroken_with_penalties


@with_and_without_late_tokens
def test_an_earlier_runs_tokens_are_continued_to_the_same_end(unbroken: Tokens, depth: int) -> None:
    interrupted = engine_over()
    for request in _requests():
        interrupted.add(request)
    done = [completion for _ in range(25) for completion in interrupted.step()]
    outputs = interrupted.unfinished_outputs()
    assert any(outputs.values())
    resumed = [
        Request(r.request_id, r.prompt_token_ids, r.params, r.draw_key, outputs[r.request_id])
        for r in _requests()
        if r.request_id in outputs
    ]
    completions = completions_of(engine_over(depth=depth), resumed)
    completions |= {c.request_id: c for c in done}
    assert tokens_of(completions) == unbroken


def test_an_output_that_was_complete_already_comes_back_as_it_is() -> None:
    params = SamplingParams(max_tokens=4)
    full = Request(1, [5], params, output_token_ids=[9, 9, 9, 9])
    ended = Request(2, [5], params, output_token_ids=[9, EOS])
    completions = completions_of(engine_over(), [full, ended])
    assert tokens_of(completions) == {1: [9, 9, 9, 9], 2: [9, EOS]}
    assert completions[1].finish_reason is FinishReason.LENGTH
    assert completions[2].finish_reason is FinishReason.STOP


@with_and_without_late_tokens
def test_running_out_of_memory_twice_heals(unbroken: Tokens, depth: int) -> None:
    model = FailingModel(torch.OutOfMemoryError("injected"), at=(5, 9))
    engine = engine_over(model, depth=depth)
    assert tokens_of(completions_of(engine, _requests())) == unbroken
    assert engine.stats().oom_events == 2
    assert engine._scheduler.max_num_batched_tokens == 16
    assert max(model.num_tokens_of_steps[-10:]) <= 16, "the budget is remembered"


@with_and_without_late_tokens
def test_a_row_that_runs_out_of_memory_alone_is_an_error_and_the_rest_is_not(depth: int) -> None:
    poison = VOCAB_SIZE - 1
    requests = [Request(i, [1 + i] * 9, SamplingParams(max_tokens=6)) for i in range(20)]
    requests[7] = Request(7, [poison] * 40, SamplingParams(max_tokens=6))
    clean = tokens_of(completions_of(engine_over(), requests))
    engine = engine_over(FailingModel(torch.OutOfMemoryError("full"), poison=poison), depth=depth)
    completions = completions_of(engine, requests)
    failed = {i: c for i, c in completions.items() if c.finish_reason is FinishReason.ERROR}
    assert failed[7].error_code is ErrorCode.OOM
    assert "full" in (failed[7].error_message or "")
    generates_poison = {i for i, tokens in clean.items() if poison in tokens[:-1]}
    assert set(failed) == generates_poison | {7}
    assert all(completions[i].token_ids == clean[i] for i in clean if i not in failed)
    assert engine._scheduler.max_num_batched_tokens == 64, "the culprit is gone"


@with_and_without_late_tokens
def test_a_row_that_crashes_the_step_loses_no_other_row(depth: int) -> None:
    poison = VOCAB_SIZE - 1
    requests = [Request(i, [1 + i] * 9, SamplingParams(max_tokens=6)) for i in range(20)]
    requests[7] = Request(7, [poison] * 40, SamplingParams(max_tokens=6))
    clean = tokens_of(completions_of(engine_over(), requests))
    engine = engine_over(FailingModel(ValueError("bad row"), poison=poison), depth=depth)
    completions = completions_of(engine, requests)
    failed = {i: c for i, c in completions.items() if c.finish_reason is FinishReason.ERROR}
    assert {c.error_code for c in failed.values()} == {ErrorCode.ENGINE_CRASH}
    assert 7 in failed
    assert len(failed) < 6
    assert all(completions[i].token_ids == clean[i] for i in clean if i not in failed)
    engine._scheduler.block_manager.check_integrity([])


def test_an_engine_that_always_crashes_raises_instead_of_failing_every_row() -> None:
    engine = engine_over(FailingModel(ValueError("broken"), at=tuple(range(10_000))))
    with pytest.raises(ValueError, match="broken"):
        completions_of(engine, _requests())


def test_a_lost_device_raises_at_once() -> None:
    model = FailingModel(RuntimeError("CUDA error: an illegal memory access"), at=(4,))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        completions_of(engine_over(model), _requests())
    assert model.num_calls == 4


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors might be", "memory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", "memory"),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "memory"),
        ("CUDA error: device-side assert triggered", "fatal"),
        ("mat1 and mat2 shapes cannot be multiplied", "row"),
    ],
)
def test_what_a_devices_error_says_decides_what_is_done(text: str, kind: str) -> None:
    error = RuntimeError(text)
    assert is_out_of_memory(error) == (kind == "memory")
    assert is_fatal(error) == (kind == "fatal")


class FlakyRunner:
    """Fails at the given calls, before a step is packed or after it was launched."""

    def __init__(self, runner: Any, execute: tuple[int, ...], collect: tuple[int, ...]) -> None:
        self.runner, self.failing = runner, {"execute": execute, "collect": collect}
        self.num_calls = {"execute": 0, "collect": 0}

    def _count(self, call: str) -> None:
        self.num_calls[call] += 1
        if self.num_calls[call] in self.failing[call]:
            raise torch.OutOfMemoryError(call)

    def execute(self, step: ScheduledStep) -> Any:
        self._count("execute")
        return self.runner.execute(step)

    def collect(self, handle: Any) -> StepOutput:
        self._count("collect")
        return self.runner.collect(handle)

    def release(self) -> None:
        self.runner.release()


@with_and_without_late_tokens
@pytest.mark.parametrize(("execute", "collect"), [((1, 2, 9), ()), ((), (1, 6)), ((5,), (5, 6))])
def test_a_step_that_fails_before_packing_or_after_launching_changes_no_token(
    unbroken: Tokens, depth: int, execute: tuple[int, ...], collect: tuple[int, ...]
) -> None:
    engine = engine_over(depth=depth)
    engine._runner = FlakyRunner(engine._runner, execute, collect)
    assert tokens_of(completions_of(engine, _requests())) == unbroken
    assert engine.stats().oom_events == len(execute) + len(collect)
    engine.close()
    assert engine._scheduler.block_manager.num_free == 400


class NanModel(FakeModel):
    """NaN for rows whose context starts with the poison."""

    def forward(self, input_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        logits = super().forward(input_ids, *rest)
        firsts = self.cache[rest[1].block_tables[:, 0].long(), 0, 0]
        logits[firsts == VOCAB_SIZE - 1] = torch.nan
        return logits


@with_and_without_late_tokens
def test_nan_logits_fail_their_own_row(depth: int) -> None:
    requests = [Request(i, [1 + i] * 3, SamplingParams(max_tokens=6)) for i in range(8)]
    requests[3] = Request(3, [VOCAB_SIZE - 1] * 3, SamplingParams(max_tokens=6))
    completions = completions_of(engine_over(NanModel(), depth=depth), requests)
    failed = [i for i, c in completions.items() if c.error_code is not None]
    assert failed == [3]
    assert completions[3].error_code is ErrorCode.NAN_LOGITS
    assert completions[3].token_ids == []


def test_the_parts_of_a_latency_add_up_and_follow_each_other() -> None:
    before = time.monotonic()
    completions = completions_of(engine_over(), _requests())
    for completion in completions.values():
        t = completion.timings
        assert before <= t.enqueued <= t.first_scheduled <= t.first_token <= t.finished
        queue, prefill = t.first_scheduled - t.enqueued, t.first_token - t.first_scheduled
        decode, latency = t.finished - t.first_token, t.finished - t.enqueued
        assert queue + prefill + decode == pytest.approx(latency, abs=1e-9)


def test_a_prompt_that_leaves_no_room_is_refused_with_its_numbers() -> None:
    engine = engine_over(num_blocks=5)
    assert engine.max_model_len == 20
    with pytest.raises(
        RowError, match=r"the prompt has 20 tokens; .* 20 \(max_model_len\)"
    ) as info:
        engine.add(Request(1, [1] * 20, SamplingParams()))
    assert info.value.code is ErrorCode.PROMPT_TOO_LONG
    completions = completions_of(engine, [Request(2, [1] * 19, SamplingParams(max_tokens=100))])
    assert len(completions[2].token_ids) == 1
    assert completions[2].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        ([], ErrorCode.EMPTY_PROMPT),
        ([VOCAB_SIZE], ErrorCode.INVALID_ROW),
        ([-1], ErrorCode.INVALID_ROW),
    ],
)
def test_what_no_model_can_embed_is_refused(tokens: list[int], code: ErrorCode) -> None:
    engine = engine_over()
    with pytest.raises(RowError) as info:
        engine.add(Request(1, tokens, SamplingParams()))
    assert info.value.code is code
    assert engine.num_unfinished == 0


def _greedy(**params: Any) -> Completion:
    request = Request(0, [4, 5, 6], SamplingParams(max_tokens=12, **params))
    return completions_of(engine_over(), [request])[0]


def test_a_stop_token_ends_the_output_and_is_its_reason() -> None:
    tokens = _greedy(ignore_eos=True).token_ids
    completion = _greedy(ignore_eos=True, stop_token_ids=(tokens[4],))
    assert completion.token_ids == tokens[: tokens.index(tokens[4]) + 1]
    assert completion.finish_reason is FinishReason.STOP
    assert completion.stop_reason == tokens[4]


def test_the_models_end_is_a_stop_without_reason_unless_ignored() -> None:
    tokens = _greedy(ignore_eos=True).token_ids
    request = Request(0, [4, 5, 6], SamplingParams(max_tokens=12))
    completion = completions_of(engine_over(eos_token_ids=(tokens[3],)), [request])[0]
    assert completion.token_ids == tokens[: tokens.index(tokens[3]) + 1]
    assert (completion.finish_reason, completion.stop_reason) == (FinishReason.STOP, None)


def test_a_stop_string_is_asked_for_after_each_token_once_min_tokens_exist() -> None:
    seen: list[int] = []

    def checker(token_ids: Any) -> str | None:
        seen.append(len(token_ids))
        return "END" if len(token_ids) == 5 else None

    params = SamplingParams(max_tokens=12, min_tokens=3, ignore_eos=True)
    request = Request(0, [4, 5, 6], params, stop_checker=checker)
    completion = completions_of(engine_over(), [request])[0]
    assert seen == [3, 4, 5]
    assert (completion.finish_reason, completion.stop_reason) == (FinishReason.STOP, "END")
    assert len(completion.token_ids) == 5


def test_a_stop_check_that_raises_fails_its_own_row() -> None:
    def checker(token_ids: Any) -> str | None:
        raise UnicodeError("cannot decode")

    bad = Request(0, [4], SamplingParams(max_tokens=5), stop_checker=checker)
    good = Request(1, [4], SamplingParams(max_tokens=5))
    completions = completions_of(engine_over(), [bad, good])
    assert completions[0].error_code is ErrorCode.INTERNAL
    assert "cannot decode" in (completions[0].error_message or "")
    assert completions[1].error_code is None


def test_logprobs_come_with_every_token_when_asked_for() -> None:
    completion = _greedy(logprobs=0)
    assert completion.logprobs is not None
    assert len(completion.logprobs) == len(completion.token_ids)
    assert all(value < 0 for value in completion.logprobs)
    assert _greedy().logprobs is None


@with_and_without_late_tokens
def test_aborted_requests_never_come_back_and_free_their_blocks(depth: int) -> None:
    engine = engine_over(depth=depth)
    expected = tokens_of(completions_of(engine_over(), _requests()))
    for request in _requests():
        engine.add(request)
    completions = [c for _ in range(6) for c in engine.step()]
    aborted = [i for i in range(0, NUM_ROWS, 3) if i in engine.unfinished_outputs()]
    for request_id in aborted:
        engine.abort(request_id)
    completions += completions_of(engine, []).values()
    assert {c.request_id for c in completions} == set(range(NUM_ROWS)) - set(aborted)
    assert all(c.token_ids == expected[c.request_id] for c in completions)
    engine.close()
    assert engine._scheduler.block_manager.num_free == 400


@with_and_without_late_tokens
def test_closing_in_the_middle_leaves_nothing_behind(depth: int) -> None:
    engine = engine_over(depth=depth)
    for request in _requests():
        engine.add(request)
    engine.step()
    engine.close()
    assert engine.num_unfinished == 0
    assert engine._scheduler.block_manager.num_free == 400


def test_the_counters_count() -> None:
    engine = engine_over()
    requests = _requests()
    completions = completions_of(engine, requests)
    stats = engine.stats()
    assert stats.prompt_tokens == sum(len(r.prompt_token_ids) for r in requests)
    assert stats.output_tokens == sum(len(c.token_ids) for c in completions.values())
    assert (stats.num_running, stats.num_waiting, stats.oom_events) == (0, 0, 0)
    assert stats.num_steps > 0
    assert stats.step_seconds > 0
    assert stats.peak_memory_bytes > 1 << 20


def test_a_request_id_in_use_is_refused() -> None:
    engine = engine_over()
    engine.add(Request(1, [1], SamplingParams()))
    with pytest.raises(ValueError, match="request 1 is not finished"):
        engine.add(Request(1, [1], SamplingParams()))
