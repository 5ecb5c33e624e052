"""A budget ends the thinking, a grammar waits for its end; alone, in any batch, and resumed."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import pytest
from answer_tokenizers import tag_codec
from engine_runs import completions_of, tokens_of
from fake_model import FakeModel, engine_over
from test_reasoning import HARMONY, HARMONY_TAGS, OPENS, QWEN, USER

from batchgen.engine.request import Completion, FinishReason, Request, SamplingParams
from batchgen.engine.run.engine import LLMEngine
from batchgen.errors import ErrorCode
from batchgen.job.answers.reading import AnswerParsers
from batchgen.job.fields.params import apply, read_params
from batchgen.job.rows import InputRow
from batchgen.job.text.backend_codec import BackendCodec
from batchgen.job.text.prepared import FailedRow, PreparedRow
from batchgen.job.text.requests import Requests

TAGS = ["<think>", "</think>"]
GRAMMAR = {"guided_regex": r'\{"a": ?[1-9][0-9]?\}'}


def prepared(
    codec: BackendCodec, rows: list[dict[str, Any]], parser: str = "auto"
) -> tuple[list[PreparedRow], list[FailedRow]]:
    """Chats with parameters; `kwargs` are the template's."""
    template = None if codec.template is None else codec.template.source
    parsers = AnswerParsers(codec, template, parser)
    eos = codec.special_token_id("<eos>")
    assert eos is not None
    requests = Requests(codec, eos_token_ids=(eos,), parsers=parsers)
    requests._process = None
    base = SamplingParams(max_tokens=60, temperature=1.0)
    made = []
    for index, row in enumerate(rows):
        given = {key: value for key, value in row.items() if key not in ("kwargs", "prompt")}
        made.append(
            InputRow(
                index,
                f"f:{index + 1}",
                prompt=row.get("prompt"),
                messages=None if "prompt" in row else [*USER, *[USER[0]] * (index % 3)],
                params=apply(base, read_params(given)),
                template_kwargs=row.get("kwargs", {}),
            )
        )
    return requests.prepare(made)


def engine_of(codec: BackendCodec, **config: Any) -> LLMEngine:
    eos = codec.special_token_id("<eos>")
    model = FakeModel(vocab_size=codec.vocab_size)
    return engine_over(model, eos_token_ids=(eos,), **config)


def completions(codec: BackendCodec, requests: list[Request], **config: Any) -> dict[int, Any]:
    return completions_of(engine_of(codec, **config), requests)


def answer_of(codec: BackendCodec, row: PreparedRow, done: Completion) -> tuple[str | None, str]:
    assert row.reading is not None
    ids = done.token_ids[:-1] if done.ends_with_stop_token else done.token_ids
    answer = row.reading.read(ids)
    return answer.reasoning, answer.completion


@pytest.mark.parametrize("tags", [{"other": TAGS}, {"special": TAGS}, {}])
@pytest.mark.parametrize("budget", [0, 1, 7])
def test_the_end_is_forced_after_so_many_tokens_and_the_answer_goes_on(
    tags: dict[str, list[str]], budget: int
) -> None:
    codec = tag_codec(**tags, template=OPENS)
    rows = [{"reasoning_budget": budget, "ignore_eos": True} for _ in range(4)]
    ready, _ = prepared(codec, rows)
    end = codec.encode_plain(["</think>"])[0]
    done = completions(codec, [r.requests[0] for r in ready]).values()
    thoughts = []
    for ids in (one.token_ids for one in done):
        assert len(ids) == 60
        thoughts.append(next(i for i in range(len(ids)) if ids[i : i + len(end)] == end))
    assert max(thoughts) == budget  # one that is shorter the model ended itself


def mixed(count: int = 14) -> list[dict[str, Any]]:
    """Rows with budgets, grammars, both, neither, with thinking and without."""
    rows: list[dict[str, Any]] = []
    for index in range(count):
        row: dict[str, Any] = {
            "seed": index,
            "ignore_eos": index % 2 == 0,
            "max_tokens": 25 + index,
        }
        if index % 3:
            row["thinking_token_budget"] = index % 7
        if index % 4:
            row |= GRAMMAR
        if index % 5 == 4:
            row["kwargs"] = {"enable_thinking": False}
        if index % 6 == 5:
            row["repetition_penalty"] = 1.2
        rows.append(row)
    return rows


@pytest.mark.parametrize("template", [QWEN, OPENS])
def test_a_row_is_the_same_alone_in_a_batch_preempted_and_resumed(template: str) -> None:
    pytest.importorskip("llguidance")
    codec = tag_codec(other=TAGS, template=template)

    def requests() -> list[Request]:
        ready, failed = prepared(codec, mixed())
        assert not failed
        return [row.requests[0] for row in ready]

    engine = engine_of(codec)
    alone: dict[int, list[int]] = {}
    for request in requests():
        alone |= tokens_of(completions_of(engine, [request]))
    for depth, config in ((0, {}), (1, {}), (1, {"num_blocks": 50})):
        engine = engine_of(codec, **config)
        engine._depth = depth
        assert tokens_of(completions_of(engine, requests())) == alone
        assert "num_blocks" not in config or engine.stats().preemptions
    for part in (1, 5, 12):
        begun = [
            dataclasses.replace(r, output_token_ids=alone[r.request_id][:part])
            for r in requests()
            if len(alone[r.request_id]) > part
        ]
        assert tokens_of(completions(codec, begun)) == {
            r.request_id: alone[r.request_id] for r in begun
        }
    crossed = [pickle.loads(pickle.dumps(request)) for request in requests()[:4]]
    assert tokens_of(completions(codec, crossed)) == {
        r.request_id: alone[r.request_id] for r in crossed
    }


@pytest.mark.parametrize("tags", [{"other": TAGS}, {}])
@pytest.mark.parametrize("template", [QWEN, OPENS])
def test_a_grammar_holds_the_answer_and_not_the_thinking(
    template: str, tags: dict[str, list[str]]
) -> None:
    pytest.importorskip("llguidance")
    codec = tag_codec(**tags, template=template)
    row = GRAMMAR | {"thinking_budget": 9, "max_tokens": 90, "ignore_eos": True}
    begin = codec.encode_plain(["<think>"])[0][0]
    rows = []
    for index in range(16):  # where the prompt leaves it open, every second row thinks
        bias = {str(begin): 100 if index % 2 else -100} if template == QWEN else None
        off = {"kwargs": {"enable_thinking": False}} if index % 4 == 3 else {}
        rows.append(row | {"seed": index, "logit_bias": bias} | (off if template == QWEN else {}))
    ready, failed = prepared(codec, rows)
    assert not failed
    done = completions(codec, [r.requests[0] for r in ready])
    thoughts = []
    for index, prepared_row in enumerate(ready):
        thought, answer = answer_of(codec, prepared_row, done[index << 10])
        assert done[index << 10].finish_reason is FinishReason.STOP
        assert set(json.loads(answer)) == {"a"}
        thoughts.append(thought is not None)
    if template == QWEN:
        assert thoughts == [index % 4 == 1 for index in range(16)]
    assert sum(thoughts) >= 4


def test_harmonys_grammar_is_the_final_channels() -> None:
    pytest.importorskip("llguidance")
    codec = tag_codec(special=HARMONY_TAGS, template=HARMONY)
    ready, _ = prepared(codec, [GRAMMAR | {"thinking_budget": 5, "max_tokens": 300}])
    begun = codec.encode_plain(["<|channel|>analysis<|message|>"])[0]
    request = dataclasses.replace(ready[0].requests[0], output_token_ids=begun)
    (done,) = completions(codec, [request]).values()
    thought, answer = answer_of(codec, ready[0], done)
    final = codec.encode_plain(["<|end|><|start|>assistant<|channel|>final<|message|>"])[0]
    assert done.token_ids[len(begun) + 5 :][: len(final)] == final
    assert thought
    assert set(json.loads(answer)) == {"a"}


@pytest.mark.parametrize("name", ["reasoning_budget", "thinking_budget", "thinking_token_budget"])
def test_a_budget_is_read_under_its_names_and_refused_where_nobody_thinks(name: str) -> None:
    assert read_params({name: 5}) == {"thinking_token_budget": 5}
    assert read_params({name: -1}) == {"thinking_token_budget": None}
    codec = tag_codec(template="{{ messages[0].content }}")
    ready, failed = prepared(codec, [{name: 5}, {}])
    assert [row.row.index for row in ready] == [1]
    assert failed[0].error.code is ErrorCode.UNSUPPORTED_SETTING
    assert "--reasoning-parser" in failed[0].error.message
    named, _ = prepared(codec, [{name: 5, "prompt": "Hi"}], "qwen3")
    assert named[0].requests[0].constraint is not None


def test_plain_rows_of_a_model_that_thinks_have_no_constraint() -> None:
    ready, _ = prepared(tag_codec(other=TAGS, template=QWEN), [{}])
    assert ready[0].requests[0].constraint is None
