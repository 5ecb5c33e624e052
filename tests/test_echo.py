from __future__ import annotations

import gc
import time

from batchgen.engine.request import FinishReason, Request, SamplingParams
from batchgen.engine.run.echo import EchoEngine


def test_the_prompt_comes_back_in_one_step_cut_by_max_tokens() -> None:
    engine = EchoEngine()
    engine.add(Request(1, [5, 6, 7], SamplingParams()))
    engine.add(Request(2, [5, 6, 7], SamplingParams(max_tokens=2, logprobs=0)))
    engine.add(Request(3, (8,), SamplingParams(max_tokens=1)))
    completions = {c.request_id: c for c in engine.step()}
    assert [completions[i].token_ids for i in (1, 2, 3)] == [[5, 6, 7], [5, 6], [8]]
    assert completions[1].finish_reason is FinishReason.STOP
    assert completions[2].finish_reason is FinishReason.LENGTH
    assert (completions[1].logprobs, completions[2].logprobs) == (None, [0.0, 0.0])
    assert engine.num_unfinished == 0
    assert engine.step() == []


def test_timings_are_in_order_and_counters_count() -> None:
    engine = EchoEngine()
    engine.add(Request(1, [5, 6, 7], SamplingParams(max_tokens=2)))
    (completion,) = engine.step()
    t = completion.timings
    assert 0 < t.enqueued <= t.first_scheduled <= t.first_token <= t.finished
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.output_tokens, stats.num_steps) == (3, 2, 1)


def test_an_aborted_request_is_forgotten() -> None:
    engine = EchoEngine()
    for request_id in (1, 2):
        engine.add(Request(request_id, [5], SamplingParams()))
    engine.abort(1)
    assert engine.unfinished_outputs() == {2: []}
    assert [c.request_id for c in engine.step()] == [2]
    engine.add(Request(3, [5], SamplingParams()))
    engine.close()
    assert engine.num_unfinished == 0


def test_it_is_far_faster_than_a_job() -> None:
    engine = EchoEngine()
    params = SamplingParams()
    prompt = list(range(20))
    num_done = 0
    gc.disable()  # it would look through all that other tests imported
    started = time.process_time()
    for start in range(0, 40_000, 4000):
        for request_id in range(start, start + 4000):
            engine.add(Request(request_id, prompt, params))
        num_done += len(engine.step())
    seconds = time.process_time() - started
    gc.enable()
    assert num_done == 40_000
    assert num_done / seconds > 50_000
