"""What max_tokens would cut in the middle ends whole where its grammar can, and says so."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from engine_runs import completions_of, tokens_of
from test_structured import _byte_engine, _request, _text, _wanted

from batchgen import LLM
from batchgen.engine.grammar.compiler import GrammarCompiler
from batchgen.engine.request import Completion, FinishReason, Request

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

STRING: dict[str, Any] = {"type": "string"}
PART = {"type": "object", "properties": {"left": STRING, "right": STRING}}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"note": STRING, "n": STRING}, "required": ["note", "n"]},
    {"type": "array", "items": {"type": "integer"}},
    {"type": "array", "items": PART | {"required": ["left", "right"]}},
    {"type": "object", "properties": {"at": {"type": "string", "format": "email"}}},
    {"type": "object", "additionalProperties": {"type": "number"}, "required": ["x"]},
    {"anyOf": [{"type": "array", "items": {"type": "array"}}, {"type": "string", "minLength": 9}]},
]
"""Of each a document has no bound; a few bytes hold the shortest."""


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return GrammarCompiler(lambda: "byte", 262, (261,))


def _requests(grammars: GrammarCompiler, room: int) -> list[Request]:
    return [
        _request(grammars, i, _wanted(guided_json=schema), max_tokens=room, temperature=i % 2 * 1.0)
        for i, schema in enumerate(SCHEMAS * 2)
    ]


@pytest.mark.parametrize("room", [36, 60])
def test_a_document_is_valid_however_few_tokens_it_gets(
    grammars: GrammarCompiler, room: int
) -> None:
    done = completions_of(_byte_engine(), _requests(grammars, room))
    for index, schema in enumerate(SCHEMAS * 2):
        jsonschema.validate(json.loads(_text(done[index])), schema)
        assert len(done[index].token_ids) <= room
    led = [c for c in done.values() if c.is_steered]
    assert len(led) > 1
    assert {c.finish_reason for c in led} == {FinishReason.LENGTH}
    assert all(c.finish_reason is FinishReason.STOP for c in done.values() if not c.is_steered)


def test_it_ends_the_same_alone_preempted_and_continued(grammars: GrammarCompiler) -> None:
    def said(done: dict[int, Completion]) -> list[Any]:
        return [(c.token_ids, c.finish_reason, c.is_steered) for _, c in sorted(done.items())]

    whole = completions_of(_byte_engine(), _requests(grammars, 40))
    alone: dict[int, Completion] = {}
    for request in _requests(grammars, 40):
        alone |= completions_of(_byte_engine(), [request])
    assert said(alone) == said(whole)
    ahead = _byte_engine(num_blocks=30)
    ahead._depth = 1
    assert said(completions_of(ahead, _requests(grammars, 40))) == said(whole)
    assert ahead.stats().preemptions
    for share in (3, 2):
        begun = [
            dataclasses.replace(r, output_token_ids=ids[: len(ids) - len(ids) // share])
            for r, ids in zip(_requests(grammars, 40), tokens_of(whole).values(), strict=True)
        ]
        assert said(completions_of(_byte_engine(), begun)) == said(whole)


@pytest.mark.parametrize(
    ("pattern", "room"),
    [("[a-z]+X", 5), ("(ab)+", 7), ("[0-9]+(\\.[0-9]+)?", 4), ("a{3}(b{20})?", 12), (".*", 3)],
)
def test_a_match_ends_in_time(grammars: GrammarCompiler, pattern: str, room: int) -> None:
    wanted = _wanted(guided_regex=pattern)
    rows = [_request(grammars, i, wanted, max_tokens=room) for i in range(12)]
    done = completions_of(_byte_engine(), rows)
    assert [c.error_message for c in done.values()] == [None] * 12
    assert all(re.fullmatch(pattern, _text(c)) for c in done.values())


def test_all_choices_that_fit_stay_open(grammars: GrammarCompiler) -> None:
    wanted = _wanted(guided_choice=["a", "b", "cde"])
    rows = [_request(grammars, i, wanted, max_tokens=1) for i in range(40)]
    done = completions_of(_byte_engine(), rows)
    assert {_text(c) for c in done.values()} == {"a", "b"}
    both = _wanted(guided_choice=["a", "b"])
    rows = [_request(grammars, i, both, max_tokens=1) for i in range(9)]
    done = completions_of(_byte_engine(), rows)
    assert {c.finish_reason for c in done.values()} == {FinishReason.STOP}


def test_where_no_end_fits_the_row_is_cut_and_does_not_claim_to_be_whole(
    grammars: GrammarCompiler,
) -> None:
    wanted = _wanted(guided_regex="x{30}")
    done = completions_of(_byte_engine(), [_request(grammars, 0, wanted, max_tokens=20)])[0]
    assert (_text(done), done.finish_reason, done.is_steered) == (
        "x" * 20,
        FinishReason.LENGTH,
        False,
    )


def test_settings_that_forbid_the_way_out_do_not_fail_the_row(grammars: GrammarCompiler) -> None:
    wanted = _wanted(guided_json=SCHEMAS[0])
    forbidden = {"bad_words": ((ord('"'),),), "min_tokens": 20, "ignore_eos": True}
    rows = [
        _request(grammars, i, wanted, max_tokens=20, **{name: value})
        for i, (name, value) in enumerate(forbidden.items())
    ]
    codes = [c.error_code for c in completions_of(_byte_engine(), rows).values()]
    assert codes[1:] == [None, None]
    assert codes[0] in (None, "no_allowed_token")


def test_a_stop_token_within_a_document_cuts_it_and_does_not_claim_it_whole(
    grammars: GrammarCompiler,
) -> None:
    wanted = _wanted(guided_json=SCHEMAS[0])
    rows = [
        _request(grammars, i, wanted, max_tokens=30, stop_token_ids=(end,), ignore_eos=True)
        for i, end in enumerate([ord("}"), 200] * 6)
    ]
    done = completions_of(_byte_engine(), rows)
    cut = [c for c in done.values() if c.stop_reason == ord("}")]
    assert len(cut) > 2
    assert {(c.finish_reason, c.is_steered) for c in cut} == {(FinishReason.STOP, False)}
    led = [c for c in done.values() if c.is_steered]
    assert len(led) > 2
    assert all(json.loads(_text(c)) for c in led)


def test_the_output_s_row_says_that_its_grammar_ended_it() -> None:
    words = {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2}
    row = {"prompt": "Colours:", "guided_json": words, "max_tokens": 20}
    with LLM() as llm:
        (result,) = llm.generate([row])
        jsonschema.validate(json.loads(result.completion or ""), words)
        assert (result.finish_reason, result.stop_reason) == ("length", "grammar")
        assert result.completion_tokens <= 20


def test_a_document_that_a_stop_string_cuts_is_not_called_whole() -> None:
    words = {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2}
    row = {"prompt": "Colours:", "guided_json": words, "max_tokens": 20, "stop": ["]"]}
    with LLM() as llm:
        (result,) = llm.generate([row])
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.completion or "")
    assert (result.finish_reason, result.stop_reason) == ("length", "]")
