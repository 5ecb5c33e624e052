"""A decoded row becomes what it says: id, content, parameters, kept columns, or a typed error."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, UsageError
from batchgen.job.fields.kept_columns import MAX_LATE_COLUMNS, KeptColumns
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
CHAT = [{"role": "user", "content": "hello"}]
BASE = SamplingParams(max_tokens=50)


def parse(raw: dict[str, Any], **spec: Any) -> InputRow:
    given = InputSpec((), **spec)
    parser = RowParser(given, BASE, KeptColumns(given.keep_columns))
    return parser.parse(3, "f:4", raw)


def error_of(raw: dict[str, Any], **spec: Any) -> ErrorCode | None:
    error = parse(raw, **spec).error
    return error and error.code


def openai(body: Any, **row: Any) -> dict[str, Any]:
    row = {"method": "POST", "url": "/v1/chat/completions", **row}
    return {"custom_id": "c", **row, "body": body}


def test_a_plain_row_shares_the_parameters_of_all_rows() -> None:
    row = parse({"id": "a", "prompt": "hello"})
    assert (row.id, row.prompt, row.error, row.kept) == ("a", "hello", None, {})
    assert row.params is BASE


def test_rows_with_equal_settings_share_their_parameters_and_others_do_not() -> None:
    parser = RowParser(InputSpec(()), BASE, KeptColumns("all"))

    def params(**settings: Any) -> SamplingParams:
        row = parser.parse(0, "f:1", {"prompt": "a", **settings})
        assert row.error is None, row.error
        return row.params

    for given_twice in (
        {"temperature": 0.5, "max_tokens": 4},
        {"stop": ["###", "\n"]},
        {"stop_token_ids": [1, 2]},
        {"choices": ["yes", "no"]},
    ):
        assert params(**given_twice) is params(**given_twice)
    different = [["1"], ["1", "2"], ["1", "1"], ["2"], "1\n", ["1" * 300], ["2" * 300]]
    found = [params(stop=stop) for stop in different]
    fresh = [
        RowParser(InputSpec(()), BASE, KeptColumns("all")).parse(
            0, "f:1", {"prompt": "a", "stop": s}
        )
        for s in different
    ]
    assert found == [row.params for row in fresh]
    assert params(stop=["1" * 300]) is not params(stop=["1" * 300]), "each may have its own"


@pytest.mark.parametrize(("id", "read"), [("a", "a"), (7, "7"), (0, "0"), (None, None), ("", None)])
def test_ids_are_strings_or_integers_and_null_or_empty_is_absent(id: Any, read: Any) -> None:
    row = parse({"id": id, "prompt": "a"})
    assert (row.id, row.error) == (read, None)
    assert row.output_id == ("3" if read is None else read)


@pytest.mark.parametrize("id", [True, False, 1.5, [], ["a"], {}])
def test_any_other_id_is_an_invalid_row_keyed_by_its_index(id: Any) -> None:
    row = parse({"id": id, "prompt": "a"})
    assert row.error is not None
    assert row.error.code is ErrorCode.INVALID_ROW
    assert row.id is None


def test_custom_id_is_an_id_unless_id_stands_beside_it() -> None:
    assert parse({"custom_id": "c", "prompt": "a"}).id == "c"
    both = parse({"id": "i", "custom_id": "c", "prompt": "a"})
    assert (both.id, both.kept) == ("i", {"custom_id": "c"})
    assert parse({"key": 5, "prompt": "a"}, id_column="key").id == "5"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ({}, ErrorCode.MISSING_PROMPT),
        ({"prompt": None}, ErrorCode.MISSING_PROMPT),
        ({"text": "a"}, ErrorCode.MISSING_PROMPT),
        ({"prompt": "a", "messages": CHAT}, ErrorCode.INVALID_ROW),
        ({"prompt": "a", "prompt_token_ids": [1]}, ErrorCode.INVALID_ROW),
        ({"prompt": 5}, ErrorCode.INVALID_ROW),
        ({"prompt": ["a"]}, ErrorCode.INVALID_ROW),
        ({"messages": []}, ErrorCode.EMPTY_PROMPT),
        ({"messages": "hello"}, ErrorCode.INVALID_ROW),
        ({"messages": ["hello"]}, ErrorCode.INVALID_ROW),
        ({"messages": [{"content": "a"}]}, ErrorCode.INVALID_ROW),
        ({"messages": [{"role": 1, "content": "a"}]}, ErrorCode.INVALID_ROW),
        ({"messages": [{"role": "user"}]}, ErrorCode.INVALID_ROW),
        ({"messages": [{"role": "user", "content": 5}]}, ErrorCode.INVALID_ROW),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            ErrorCode.INVALID_ROW,
        ),
        ({"prompt_token_ids": []}, ErrorCode.EMPTY_PROMPT),
        ({"prompt_token_ids": [1, True]}, ErrorCode.INVALID_ROW),
        ({"prompt_token_ids": [1.0]}, ErrorCode.INVALID_ROW),
        ({"prompt_token_ids": [-1]}, ErrorCode.INVALID_ROW),
        ({"prompt_token_ids": [2**31]}, ErrorCode.INVALID_ROW),
        ({"prompt": "a", "params": {"x": 1}}, ErrorCode.UNKNOWN_PARAM),
        ({"prompt": "a", "params": [1]}, ErrorCode.INVALID_PARAM),
        ({"prompt": "a", "params": "{"}, ErrorCode.INVALID_PARAM),
        ({"prompt": "a", "top_p": 2}, ErrorCode.INVALID_PARAM),
        ({"prompt": "a", "top_p": 0.5, "params": {"top_p": 0.6}}, ErrorCode.INVALID_PARAM),
        ({"prompt": "a", "max_length": 5}, ErrorCode.UNSUPPORTED_SETTING),
        ({"prompt": "a", "status": "x"}, ErrorCode.INVALID_ROW),
    ],
)
def test_what_cannot_be_served_has_its_code(raw: dict[str, Any], code: ErrorCode) -> None:
    assert error_of(raw) is code


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": ""},
        {"prompt": "a", "messages": None, "params": None},
        {"messages": CHAT, "params": {}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"messages": [*CHAT, {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}]},
        {"prompt_token_ids": [0, 2**31 - 1]},
        {"prompt": "a", "params": '{"top_p": 0.5}'},
        {"prompt": "a", "top_p": 0.5, "params": {"top_p": 0.5}},
    ],
)
def test_what_can_be_served_is(raw: dict[str, Any]) -> None:
    assert error_of(raw) is None


def test_parameters_are_read_at_the_top_and_in_params() -> None:
    row = parse({"prompt": "a", "temperature": 0.5, "params": {"stop": "x", "temperature": None}})
    assert row.params == SamplingParams(max_tokens=50, temperature=0.5, stop=("x",))


def test_columns_have_the_names_that_flags_give() -> None:
    spec = {"prompt_column": "text", "messages_column": "chat"}
    assert parse({"text": "a"}, **spec).prompt == "a"
    assert parse({"chat": CHAT}, **spec).messages == CHAT


def test_as_chat_and_system_make_conversations() -> None:
    system = {"role": "system", "content": "be brief"}
    assert parse({"prompt": "hello"}, as_chat=True).messages == CHAT
    assert parse({"prompt": "hello"}, as_chat=True, system="be brief").messages == [system, *CHAT]
    assert parse({"messages": CHAT}, system="be brief").messages == [system, *CHAT]
    own = [{"role": "system", "content": "be long"}, *CHAT]
    assert parse({"messages": own}, system="be brief").messages == own
    assert parse({"prompt": "hello"}, system="be brief").prompt == "hello"


def test_an_empty_system_of_a_row_is_none_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    system = {"role": "system", "content": "be brief"}
    assert parse({"prompt": "hello", "system": ""}, as_chat=True).messages == CHAT
    row = parse({"prompt": "hello", "system": ""}, as_chat=True, system="be brief")
    assert row.messages == [system, *CHAT]
    assert parse({"prompt": "hello", "system": ""}).prompt == "hello"
    assert parse({"messages": [system, *CHAT], "system": ""}).messages == [system, *CHAT]
    assert not caplog.records
    parse({"messages": [system, *CHAT], "system": "be long"})
    (told,) = [record.getMessage() for record in caplog.records]
    assert "own system message stands, not its `system`" in told


def test_an_extra_that_is_left_out_is_told_once_with_how_to_keep_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = KeptColumns("all")
    for value in ({"a": 1}, [1], "text"):
        kept.read({"meta": value})
    assert [record.getMessage() for record in caplog.records] == [
        "column 'meta' holds lists or objects and is left out; --keep-columns takes it by name, as "
        "JSON text"
    ]
    for chosen in ("none", "meta"):
        KeptColumns(chosen).read({"meta": {}})
    assert len(caplog.records) == 1


def test_scalar_extras_are_kept_as_text() -> None:
    raw = {"prompt": "a", "s": "x", "i": 5, "f": 0.5, "b": True, "z": None, "l": [1], "d": {}}
    assert parse(raw).kept == {"s": "x", "i": "5", "f": "0.5", "b": "true", "z": None}
    assert parse(raw, keep_columns="none").kept == {}
    assert parse(raw, keep_columns="i,l").kept == {"i": "5", "l": "[1]"}


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        ("int64", 5, 5),
        ("int64", "5", 5),
        ("float64", 5, 5.0),
        ("bool", True, True),
        ("string", 5, "5"),
        ("int64", None, None),
    ],
)
def test_declared_columns_are_cast(kind: str, value: Any, read: Any) -> None:
    row = parse({"prompt": "a", "x": value}, keep_columns=f"x:{kind}")
    assert (row.kept, row.error) == ({"x": read}, None)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("int64", "five"), ("int64", 5.5), ("int64", True), ("int8", 300), ("bool", 1), ("int64", [])],
)
def test_a_value_that_cannot_be_cast_is_an_invalid_row_with_the_rest_kept(
    kind: str, value: Any
) -> None:
    row = parse({"id": "a", "prompt": "p", "x": value, "y": "1"}, keep_columns=f"y,x:{kind}")
    assert row.error is not None
    assert row.error.code is ErrorCode.INVALID_ROW
    assert "'x'" in row.error.message
    assert (row.id, row.kept) == ("a", {"x": None, "y": "1"})


@pytest.mark.parametrize("raw", [{"x": "1"}, {"id": True, "prompt": "a", "x": "1"}])
def test_error_rows_keep_their_columns(raw: dict[str, Any]) -> None:
    row = parse(raw)
    assert row.error is not None
    assert row.kept == {"x": "1"}


@pytest.mark.parametrize("text", ["status", "a,completion:string", "x:no_type"])
def test_impossible_kept_columns_are_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        KeptColumns(text)


def test_sampled_columns_are_settled_in_order_and_collisions_are_named_before_the_run() -> None:
    kept = KeptColumns("all")
    kept.settle([{"b": 1, "l": []}, {"a": "x", "b": None}])
    assert kept.schema == [("b", pa.string()), ("a", pa.string())]
    with pytest.raises(UsageError, match="'status'"):
        kept.settle([{"status": 1}])


def test_a_row_with_endless_column_names_does_not_widen_the_output_forever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = KeptColumns("all")
    names = [f"c{n}" for n in range(MAX_LATE_COLUMNS + 50)]
    values, problem = kept.read(dict.fromkeys(names, 1))
    assert list(values) == names[:MAX_LATE_COLUMNS]
    assert problem is None
    (said,) = caplog.messages
    assert f"'c{MAX_LATE_COLUMNS}', and others that come, are left out (said once)" in said


def test_openai_rows_are_read() -> None:
    body = {
        "model": "m",
        "messages": CHAT,
        "max_completion_tokens": 9,
        "user": "u",
        "stream": False,
    }
    row = parse(openai(body, note="n"), served_model_names=("m",))
    assert (row.id, row.messages, row.error) == ("c", CHAT, None)
    assert row.params.max_tokens == 9
    assert row.kept == {"url": "/v1/chat/completions", "note": "n"}
    row = parse(openai({"prompt": "a"}, url="/v1/completions"), keep_columns="none")
    assert (row.prompt, row.kept) == ("a", {"url": "/v1/completions"})


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (openai({"messages": CHAT}, url="/v1/embeddings"), ErrorCode.UNSUPPORTED_URL),
        (openai({"tools": []}, url=None), ErrorCode.UNSUPPORTED_URL),
        (openai({"messages": CHAT}, url=["/v1/completions"]), ErrorCode.UNSUPPORTED_URL),
        (openai({"messages": CHAT}, method="GET"), ErrorCode.INVALID_ROW),
        (openai("text"), ErrorCode.INVALID_ROW),
        (openai(None), ErrorCode.INVALID_ROW),
        (openai({}), ErrorCode.MISSING_PROMPT),
        (openai({"prompt": "a"}), ErrorCode.MISSING_PROMPT),
        (openai({"messages": CHAT, "stream": True}), ErrorCode.INVALID_PARAM),
        (openai({"messages": CHAT, "model": "x"}), ErrorCode.MODEL_MISMATCH),
        (openai({"messages": CHAT, "model": ["m"]}), ErrorCode.MODEL_MISMATCH),
        (openai({"messages": CHAT, "unheard_of": 1}), ErrorCode.UNKNOWN_PARAM),
        (openai({"prompt": ["a", "b"]}, url="/v1/completions"), ErrorCode.INVALID_PARAM),
        (openai({"messages": CHAT, "tools": [{"type": "custom"}]}), ErrorCode.UNSUPPORTED_SETTING),
        (openai({"input": "a", "tools": [{"type": "web_search"}]}, url="/v1/responses"),
         ErrorCode.UNSUPPORTED_SETTING),
        (openai({"input": [{"type": "item_reference", "id": "i"}]}, url="/v1/responses"),
         ErrorCode.INVALID_ROW),
        (openai({"messages": CHAT, "tools": TOOLS, "parallel_tool_calls": False}),
         ErrorCode.UNSUPPORTED_SETTING),
        (openai({"messages": [{"role": "assistant", "audio": {"id": "a"}}, *CHAT]}),
         ErrorCode.INVALID_ROW),
        (openai({"messages": [{"role": "user", "content": "What is it?", "images": ["x.png"]}]}),
         ErrorCode.INVALID_ROW),
        (openai({"input": "a", "max_output_tokens": 5, "max_tokens": 6}, url="/v1/responses"),
         ErrorCode.INVALID_PARAM),
        (openai({"input": "a", "text": {"format": {"type": "text"}},
                 "response_format": {"type": "json_object"}}, url="/v1/responses"),
         ErrorCode.INVALID_PARAM),
    ],
)  # fmt: skip
def test_openai_rows_that_cannot_be_served_have_their_code(
    raw: dict[str, Any], code: ErrorCode
) -> None:
    row = parse(raw, served_model_names=("m", "org/m"))
    assert row.error is not None
    assert row.error.code is code
    assert row.id == "c"


def test_a_response_s_items_are_the_turns_of_a_chat() -> None:
    call = {"type": "function_call", "id": "i", "call_id": "c1", "name": "f", "arguments": "{}"}
    items = [
        *CHAT,
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}]},
        call,
        call | {"call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "message", "role": "assistant", "content": "b"},
    ]
    row = parse(openai({"input": items}, url="/v1/responses"))
    assert row.error is None
    assert row.messages is not None
    first, answer, *said = row.messages[len(CHAT) :]
    assert (first["role"], first["reasoning_content"]) == ("assistant", "Hm.")
    assert [one["id"] for one in first["tool_calls"]] == ["c1", "c2"]
    assert answer == {"role": "tool", "tool_call_id": "c1", "content": "3"}
    assert [one["role"] for one in said] == ["assistant", "assistant"]


@pytest.mark.parametrize("choice", [None, "none", "required"])
def test_one_call_at_most_is_served_where_it_can_be_held_to(choice: str | None) -> None:
    body = {"messages": CHAT, "parallel_tool_calls": False}
    row = parse(openai(body | ({} if choice is None else {"tools": TOOLS, "tool_choice": choice})))
    assert row.error is None
    wanted = row.params.structured_outputs
    assert (wanted is not None and '"maxItems": 1' in wanted.text) == (choice == "required")


def test_the_model_is_not_checked_where_it_is_absent_or_ignored() -> None:
    served = ("m",)
    assert error_of(openai({"messages": CHAT}), served_model_names=served) is None
    other = openai({"messages": CHAT, "model": "x"})
    assert error_of(other, served_model_names=served, ignore_model=True) is None


def test_a_column_named_body_makes_no_openai_row() -> None:
    row = parse({"prompt": "a", "url": "http://x", "body": "text"})
    assert (row.prompt, row.error) == ("a", None)
    assert row.kept == {"url": "http://x", "body": "text"}


NAMES = "id custom_id prompt messages prompt_token_ids params body url method stop n seed x"
names = st.sampled_from(NAMES.split(" "))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(names, values))
def test_any_object_is_a_good_row_or_a_typed_error(raw: dict[str, Any]) -> None:
    row = parse(raw)
    contents = [row.prompt, row.messages, row.prompt_token_ids]
    if row.error is None:
        assert sum(content is not None for content in contents) == 1
    else:
        assert row.error.code is not ErrorCode.INTERNAL
        row.error.message.encode()
    assert row.id is None or row.id
    assert all(value is None or isinstance(value, str) for value in row.kept.values())
