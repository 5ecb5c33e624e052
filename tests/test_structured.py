"""Structured output: what ends by itself matches; what cannot be enforced is refused by name."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pickle
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_runs import completions_of, tokens_of
from fake_model import FakeModel, engine_over

from batchgen.engine.draws import draw_key
from batchgen.engine.grammar import compiler
from batchgen.engine.grammar.compiler import GrammarCompiler
from batchgen.engine.request import (
    Completion,
    FinishReason,
    GrammarKind,
    Request,
    SamplingParams,
    StructuredOutput,
)
from batchgen.engine.run.engine import LLMEngine
from batchgen.errors import ErrorCode, RowError
from batchgen.job.fields.params import read_params
from batchgen.job.rows import InputRow
from batchgen.job.text.byte_codec import ByteCodec
from batchgen.job.text.requests import Requests

pytest.importorskip("llguidance")
_spec = importlib.util.spec_from_file_location(
    "check_schemas", Path(__file__).parents[1] / "jobs" / "check_schemas.py"
)
assert _spec is not None
assert _spec.loader is not None
check_schemas = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_schemas)

VOCAB, EOS = 262, 261  # llguidance's vocabulary of bytes
LETTERS = StructuredOutput(GrammarKind.REGEX, "[a-z]+")


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return GrammarCompiler(lambda: "byte", VOCAB, (EOS,))


def _byte_engine(**config: Any) -> LLMEngine:
    return engine_over(FakeModel(vocab_size=VOCAB), eos_token_ids=(EOS,), **config)


def _request(
    grammars: GrammarCompiler, index: int, wanted: StructuredOutput | None, **params: Any
) -> Request:
    settings = {"max_tokens": 150, "temperature": 1.0} | params
    sampling = SamplingParams(structured_outputs=wanted, **settings)
    return Request(
        index,
        [65 + index % 26, 66],
        sampling,
        draw_key=draw_key(3, f"={index}", 0),
        constraint=wanted
        and grammars.constraint(wanted, sampling.stop_token_ids, sampling.ignore_eos),
    )


def _text(completion: Completion) -> str:
    ids = completion.token_ids
    return bytes(ids[:-1] if completion.ends_with_stop_token else ids).decode()


def _wanted(**given: Any) -> StructuredOutput:
    wanted: StructuredOutput = read_params(given)["structured_outputs"]
    return wanted


def _mixed(grammars: GrammarCompiler) -> tuple[list[Request], dict[int, Any]]:
    """Rows with a schema each, and plain ones between them; the schemas by row."""
    requests, schemas = [], {}
    for seed in range(16):
        schema = check_schemas.random_schema(seed)
        try:
            request = _request(grammars, seed, _wanted(guided_json=schema), min_tokens=seed % 5)
            schemas[seed] = schema
        except RowError as error:
            if error.code is not ErrorCode.INVALID_SCHEMA:
                raise
            request = _request(grammars, seed, None, max_tokens=9 + seed)
        requests.append(request)
    return requests, schemas


def test_every_completion_matches_its_schema_and_none_depends_on_its_neighbours(
    grammars: GrammarCompiler,
) -> None:
    alone: dict[int, list[int]] = {}
    requests, schemas = _mixed(grammars)
    assert len(schemas) > 10
    engine = _byte_engine()
    for request in requests:
        alone |= tokens_of(completions_of(engine, [request]))
    for depth, config in ((0, {}), (1, {}), (1, {"num_blocks": 90})):
        engine = _byte_engine(**config)
        engine._depth = depth
        completions = completions_of(engine, _mixed(grammars)[0])
        assert tokens_of(completions) == alone
        assert "num_blocks" not in config or engine.stats().preemptions
    for index, schema in schemas.items():
        done = completions[index]
        ended = "grammar" if done.is_steered else None
        row = {"status": "ok", "finish_reason": done.finish_reason, "completion": _text(done)}
        assert check_schemas.judge(schema, {**row, "stop_reason": ended}) == "valid"
    assert sum(completions[i].finish_reason is FinishReason.STOP for i in schemas) > 5


def test_what_an_earlier_run_had_begun_goes_on_in_the_same_grammar(
    grammars: GrammarCompiler,
) -> None:
    requests, _ = _mixed(grammars)
    whole = tokens_of(completions_of(_byte_engine(), requests[:8]))
    again = [
        dataclasses.replace(r, output_token_ids=whole[r.request_id][: r.request_id * 3 + 1])
        for r in requests[:8]
    ]
    assert tokens_of(completions_of(_byte_engine(), again)) == whole


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}-[a-f]+"}, "[0-9]{3}-[a-f]+"),
        ({"structured_outputs": {"choice": ["yes", 'a "b"\n', "nö"]}}, '(yes|a "b"\n|nö)'),
        ({"guided_grammar": 'start: "a" b\nb: "x" | "y"'}, "a[xy]"),
        ({"ebnf": 'root ::= "a" ("x" | "y")'}, "a[xy]"),
        ({"response_format": {"type": "json_object"}}, r"(?s)\{.*\}"),
    ],
    ids=str,
)
def test_regex_choice_grammar_and_json_object_hold(
    grammars: GrammarCompiler, given: dict[str, Any], pattern: str
) -> None:
    requests = [_request(grammars, i, _wanted(**given), max_tokens=60) for i in range(20)]
    completions = completions_of(_byte_engine(), requests)
    ended = [c for c in completions.values() if c.finish_reason is FinishReason.STOP]
    assert ended
    assert all(re.fullmatch(pattern, _text(c)) for c in ended)


def test_as_many_choices_as_may_be_given_hold(grammars: GrammarCompiler) -> None:
    choices = [f"{number:,} of them" for number in range(10_000)]
    wanted = _wanted(guided_choice=choices)
    done = completions_of(_byte_engine(), [_request(grammars, i, wanted) for i in range(8)])
    assert {c.finish_reason for c in done.values()} == {FinishReason.STOP}
    assert {_text(c) for c in done.values()} <= {*choices}


@pytest.mark.parametrize("depth", [0, 1])
def test_a_grammars_end_ends_the_row_whatever_its_other_settings(
    grammars: GrammarCompiler, depth: int
) -> None:
    two = StructuredOutput(GrammarKind.REGEX, "[a-z]{1,2}")
    engine = _byte_engine()
    engine._depth = depth
    done = completions_of(
        engine,
        [
            _request(grammars, 0, two, min_tokens=9),
            _request(grammars, 1, two, ignore_eos=True),
            _request(grammars, 2, LETTERS, ignore_eos=True, max_tokens=30),
            _request(grammars, 3, LETTERS, stop_token_ids=(200,), ignore_eos=True),
            _request(grammars, 4, LETTERS, min_tokens=40, max_tokens=400),
        ],
    )
    assert [len(_text(done[i])) for i in (0, 1, 2)] == [2, 2, 30]
    assert [done[i].finish_reason.value for i in range(5)] == [
        *("stop", "stop", "length", "stop", "stop")
    ]
    assert done[3].stop_reason == 200
    assert len(done[4].token_ids) >= 40
    assert done[4].token_ids[-1] == EOS
    assert all(re.fullmatch("[a-z]+", _text(c)) for c in done.values())


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"type": "array", "uniqueItems": True},
        {"if": {"type": "string"}, "then": {"minLength": 3}},
        {"type": "strng"},
        {"$ref": "#/nowhere"},
        {"type": "string", "format": "no-such-format"},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"enum": []},
        {"x-guidance": {"lenient": True}, "not": {}},
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_enforced_is_refused_before_its_row_runs(schema: Any) -> None:
    base = SamplingParams()
    params = dataclasses.replace(base, **read_params({"guided_json": schema}))
    rows = [InputRow(0, "f:1", prompt="a", params=params), InputRow(1, "f:2", prompt="b")]
    ready, failed = Requests(ByteCodec()).prepare(rows)
    assert [row.row.index for row in ready] == [1]
    assert [(row.row.index, row.error.code) for row in failed] == [(0, ErrorCode.INVALID_SCHEMA)]


def test_a_grammar_that_passes_its_limits_while_it_runs_fails_its_row_alone(
    grammars: GrammarCompiler,
) -> None:
    class Beyond:
        def advance(self, token: int, room: int) -> bool:
            return False

        def fill(self, mask: Any) -> bool:
            raise RowError(ErrorCode.INVALID_SCHEMA, "too many states")

    broken = dataclasses.replace(_request(grammars, 0, LETTERS), constraint=Beyond)
    done = completions_of(_byte_engine(), [broken, _request(grammars, 1, LETTERS)])
    assert (done[0].error_code, done[0].error_message) == ("invalid_schema", "too many states")
    assert done[1].finish_reason is FinishReason.STOP


def test_a_long_grammar_is_read_with_room_for_rules_that_refer_to_each_other(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    read = compiler._SOURCES[GrammarKind.REGEX]

    def source(wanted: StructuredOutput) -> str:
        seen.append(threading.stack_size())
        return read(wanted)

    monkeypatch.setitem(compiler._SOURCES, GrammarKind.REGEX, source)
    before = threading.stack_size()
    for text in ("short", f"long {'x' * 5_000}"):
        grammars.constraint(_wanted(guided_regex=text))
    assert seen[0] == before == threading.stack_size()
    assert seen[1] >= 1 << 28
    with pytest.raises(RowError, match="not served"):
        grammars.constraint(_wanted(guided_regex=f"(?=a){'x' * 5_000}"))


def test_rows_that_begin_at_once_in_an_engine_s_process_read_their_schema_once(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, calls = pickle.loads(pickle.dumps(grammars.constraint(LETTERS))), []

    def source(wanted: StructuredOutput) -> str:
        calls.append(wanted)
        time.sleep(0.05)
        return compiler._regex(wanted)

    monkeypatch.setitem(compiler._SOURCES, GrammarKind.REGEX, source)
    with ThreadPoolExecutor(8) as threads:
        constraints = [done.result() for done in [threads.submit(begin) for _ in range(8)]]
    assert calls == [LETTERS]
    assert len({*map(id, constraints)}) == 8


def test_every_name_of_a_schema_means_the_same() -> None:
    schema = {"type": "object", "properties": {"a": {"const": None, "minimum": None}}}
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": None}}
    same = {
        _wanted(**given)
        for given in (
            {"guided_json": schema},
            {"guided_json": json.dumps(schema)},
            {"json_schema": schema},
            {"structured_outputs": {"json": schema, "regex": None, "choice": []}},
            {"structured_outputs": json.dumps({"json": schema})},
            {"response_format": format},
            {"response_format": format, "guided_json": schema},
        )
    }
    assert len(same) == 1
    assert json.loads(next(iter(same)).text)["properties"] == {"a": {"const": None}}
    assert read_params({"response_format": {"type": "text"}}) == {"structured_outputs": None}
    assert (
        read_params({"guided_json": None, "structured_outputs": {}})["structured_outputs"] is None
    )


def test_nulls_that_a_column_brings_are_no_part_of_a_schema_whatever_it_names() -> None:
    filled = {"type": "object", "minLength": None, "const": None}
    schema = {"properties": {"default": filled, "enum": None}, "examples": [{"a": None}]}
    assert json.loads(_wanted(guided_json=schema).text) == {
        "properties": {"default": {"type": "object", "const": None}},
        "examples": [{"a": None}],
    }


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"guided_json": {}, "guided_regex": "a"}, "invalid_param"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "invalid_param"),
        ({"structured_outputs": {"xml": "a"}}, "invalid_param"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "unsupported_setting"),
        ({"response_format": {"type": "xml"}}, "invalid_param"),
        ({"response_format": {"type": "json_schema"}}, "invalid_param"),
        ({"response_format": 3}, "invalid_param"),
        ({"guided_choice": ["a", 3]}, "invalid_param"),
        ({"guided_json": "{"}, "invalid_schema"),
        ({"guided_json": "3"}, "invalid_schema"),
        ({"guided_whitespace_pattern": " "}, "invalid_param"),
    ],
    ids=str,
)
def test_a_form_that_is_none_is_refused_by_name(given: dict[str, Any], code: str) -> None:
    with pytest.raises(RowError) as caught:
        read_params(given)
    assert caught.value.code == code


def test_whitespace_ends_unless_a_pattern_allows_more(grammars: GrammarCompiler) -> None:
    schema = {"type": "array", "items": {"enum": [1]}, "minItems": 1, "maxItems": 1}
    bound = grammars.constraint(_wanted(guided_json=schema))
    for text, num_taken in [
        (b"[1]", 3), (b"[ 1]", 4), (b"[\n    1\n]", 9), (b"[\r\n\t1]", 6), (b"[\n\n1]", 2),
        (b"[   1]", 3), (b"[\n" + b" " * 40 + b"1]", 22),
    ]:  # fmt: skip
        assert _num_taken(bound, text) == num_taken
    free = {"guided_json": schema, "guided_whitespace_pattern": r"[ \n]*"}
    assert _num_taken(grammars.constraint(_wanted(**free)), b"[\n\n\n     1]") == 11


def _num_taken(begin: Any, text: bytes) -> int:
    """How many bytes follow the grammar."""
    constraint = begin()
    for count, byte in enumerate(text):
        mask = np.zeros(VOCAB // 32 + 1, dtype=np.int32)
        constraint.fill(mask)
        if not mask.view(np.uint8)[byte // 8] >> byte % 8 & 1:
            return count
        constraint.advance(byte, 999)
    return len(text)


def test_whitespace_can_be_forbidden(grammars: GrammarCompiler) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 3, "maxItems": 3}
    wanted = _wanted(structured_outputs={"json": schema, "disable_any_whitespace": True})
    done = completions_of(_byte_engine(), [_request(grammars, i, wanted) for i in range(5)])
    assert all(re.fullmatch(r"\[[12],[12],[12]\]", _text(c)) for c in done.values())


@pytest.mark.parametrize("text", ["nonsense ::", 'root ::= "a', "start: [", "\0", "%"])
def test_a_grammar_that_cannot_be_read_is_its_row_s_error(text: str) -> None:
    pytest.importorskip("llguidance")
    compiler = GrammarCompiler(lambda: "byte", 257, (256,))
    with pytest.raises(RowError) as refused:
        compiler.constraint(StructuredOutput(GrammarKind.GRAMMAR, text))
    assert refused.value.code is ErrorCode.INVALID_SCHEMA
