"""Rows as people bring them: shapes of chats, tables that Arrow padded, settings by any name."""

from __future__ import annotations

import json
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, InvalidDataError
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.fields.messages import read_messages
from batchgen.job.fields.params import near_miss
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.input.reader import Reader
from batchgen.job.rows import InputRow, OutputRow
from batchgen.job.schema import output_schema, record_batch
from batchgen.job.spec import InputSpec
from batchgen.job.stored_types import stored_type
from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.text.byte_codec import ByteCodec

HI = [{"role": "user", "content": "Hi"}]
STRINGS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{{ '' }}{% endif %}{% endfor %}"
)
REPRS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TRIMS = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}"
)
CALL = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ %s }}{% endfor %}{% endfor %}"


def parse(raw: dict[str, Any], **spec: Any) -> InputRow:
    given = InputSpec((), **spec)
    return RowParser(given, SamplingParams(), KeptColumns(given.keep_columns)).parse(0, "f:1", raw)


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]


@pytest.mark.parametrize("template", [STRINGS, REPRS, TRIMS])
def test_a_template_of_strings_gets_the_text_of_parts(template: str) -> None:
    render = ChatTemplate(template, {}).render
    assert render(parts("Hi there")) == "[user]Hi there"
    system = [{"role": "system", "content": parts("Short.")[0]["content"]}, *parts("a", "b")]
    assert render(system) == "[system]Short.[user]a\nb"


CALLS = "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}"


@pytest.mark.parametrize(
    ("writes", "text"),
    [
        ("{% if m.content is none %}call" + CALLS + "{% else %}{{ m.content }}{% endif %}", "call"),
        ("{{ m.content | trim }}" + CALLS, ""),
        ("{{ m.content.split('x')[0] }}" + CALLS, ""),
        ("{% if 'content' in m %}{{ m.content }}{% endif %}" + CALLS, ""),
    ],
    ids=["wants null", "writes None", "fails on null", "asks for the key"],
)
def test_a_turn_that_only_calls_is_written_as_its_template_can(writes: str, text: str) -> None:
    source = "{% for m in messages if m.role == 'assistant' %}" + writes + "{% endfor %}"
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    for content in ({}, {"content": None}):
        turn = {"role": "assistant", "tool_calls": [call], **content}
        messages = read_messages([*HI, turn, {"role": "tool", "content": "1"}])
        assert ChatTemplate(source, {}).render(messages) == text + '{"x": 1}'


@pytest.mark.parametrize(
    ("writes", "text"),
    [
        ("m.content | tojson", '{"city": "Köln", "mm": 3}'),
        ("'<' + m.content + '>'", '<{"city": "Köln", "mm": 3}>'),
        ("m.content", '{"city": "Köln", "mm": 3}'),
        ("m.content.items() | map('join', '=') | join(';') if m.content is mapping else ''",
         "city=Köln;mm=3"),
    ],
)  # fmt: skip
def test_what_a_tool_answered_comes_out_as_json_or_as_its_template_writes_it(
    writes: str, text: str
) -> None:
    source = "{% for m in messages if m.role == 'tool' %}{{ " + writes + " }}{% endfor %}"
    answer = {"role": "tool", "name": "f", "content": {"city": "Köln", "mm": 3}}
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    messages = [*HI, {"role": "assistant", "content": "", "tool_calls": [call]}, answer]
    assert ChatTemplate(source, {}).render(read_messages(messages)) == text
    listed = [*messages[:-1], {**answer, "content": [{"mm": 3}, {"mm": 4}]}]
    if "items" not in writes:
        rendered = ChatTemplate(source, {}).render(read_messages(listed))
        assert rendered.strip("<>") == '[{"mm": 3}, {"mm": 4}]'


def test_without_a_template_parts_are_their_text() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    text = ByteCodec().render_text(read_messages([{"role": "user", "content": parts}, turn]))
    assert text == "user: a\nb\nassistant: \nassistant: "


def test_a_template_of_parts_gets_the_parts() -> None:
    assert ChatTemplate(PARTS, {}).render(parts("a", "b")) == "[user]<a><b>"


@pytest.mark.parametrize(
    "read",
    [
        "{% for p in m.content if p.type == 'text' %}<{{ p.text }}>{% endfor %}",
        "<{{ m.content[0].text + '>' }}",
    ],
    ids=["leaves text out", "fails on text"],
)
def test_a_template_that_reads_parts_alone_gets_texts_as_parts(read: str) -> None:
    source = "{% for m in messages %}[{{ m.role }}]" + read + "{% endfor %}"
    chat = [{"role": "system", "content": "S"}, *HI, {"role": "assistant", "content": "Yes "}]
    template = ChatTemplate(source, {})
    assert template.render(chat) == "[system]<S>[user]<Hi>[assistant]<Yes >"
    assert template.render(parts("a")) == "[user]<a>"
    opened = template.render(chat, {"continue_final_message": True})
    assert opened == "[system]<S>[user]<Hi>[assistant]<Yes "


@pytest.mark.parametrize("content", ["", None])
def test_a_template_that_reads_parts_alone_gets_an_empty_text_as_one(content: str | None) -> None:
    """As beside calls: SmolVLM's and Granite Vision's fail on a text, whatever it is."""
    source = "{% for m in messages %}[{{ m.role }}]<{{ m.content[0].text + '>' }}{% endfor %}"
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    chat = [*HI, {"role": "assistant", "content": content, "tool_calls": [call]}, *HI]
    rendered = ChatTemplate(source, {}).render(chat)
    assert rendered == "[user]<Hi>[assistant]<>[user]<Hi>"


def test_a_prompt_that_is_a_chat_in_json_is_text_and_said(caplog: pytest.LogCaptureFixture) -> None:
    assert parse({"prompt": "[1, 2]"}).prompt == "[1, 2]"
    assert not caplog.text
    chat = json.dumps(HI)
    assert parse({"prompt": chat}).prompt == chat
    assert "--messages-column prompt" in caplog.text
    assert parse({"prompt": chat}, messages_column="prompt").messages == HI


@pytest.mark.parametrize(
    ("writes", "text"),
    [
        ("c.function.arguments | tojson", '{"city": "Oslo"}'),
        ("c.function.arguments.city", "Oslo"),
        ("'call ' + c.function.arguments", 'call {"city":"Oslo"}'),
        ("c.function.arguments", '{"city":"Oslo"}'),
    ],
)
def test_tool_arguments_as_text_or_object_come_out_as_json_once(writes: str, text: str) -> None:
    def rendered(arguments: Any) -> str:
        call = {"type": "function", "function": {"name": "w", "arguments": arguments}}
        chat = [*HI, {"role": "assistant", "content": "", "tool_calls": [call]}]
        return ChatTemplate(CALL.replace("%s", writes), {}).render(chat)

    assert rendered('{"city":"Oslo"}') == text
    assert rendered({"city": "Oslo"}) == text.replace(":", ": ").replace(":  ", ": ")


def test_arguments_are_text_for_a_template_that_appends_them_and_names_its_answers() -> None:
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + c.function.arguments }}{% endfor %}"
        "{% if m.role == 'tool' %}{{ m.name + m.content }}{% endif %}{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "w", "arguments": '{"city":"Oslo"}'}}
    answer = {"role": "tool", "name": "w", "content": "3"}
    chat = [*HI, {"role": "assistant", "content": "", "tool_calls": [call]}, answer]
    assert ChatTemplate(source, {}).render(chat) == 'w{"city":"Oslo"}w3'


@pytest.mark.parametrize(
    ("messages", "read"),
    [
        (json.dumps(HI), HI),
        ([{"from": "human", "value": "Hi"}], HI),
        ([{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], parts("Hi")),
        ([{"role": "user", "content": ["Hi"]}], parts("Hi")),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi", "image": None}]}],
            parts("Hi"),
        ),
        (
            [{"role": "assistant", "content": None, "reasoning_content": "hm"}],
            [{"role": "assistant", "reasoning_content": "hm", "content": ""}],
        ),
        (
            [{"role": "assistant", "content": None, "refusal": "No."}],
            [{"role": "assistant", "content": "No."}],
        ),
        ([{"role": "user", "content": "Hi", "tool_calls": []}], HI),
        ([{"role": "user", "content": "Hi", "tool_calls": ""}], HI),
        (
            [{"role": "assistant", "tool_calls": '[{"function": {"name": "f"}}]'}],
            [{"role": "assistant", "tool_calls": [
                {"function": {"name": "f", "arguments": {}}}]}],
        ),
        ([{"role": "user", "content": "Hi", "tool_calls": None}], HI),
        ([{"role": "function", "content": "1"}], [{"role": "function", "content": "1"}]),
        (
            [{"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": ""}},
             {"role": "function", "name": "f", "content": "1"}],
            [{"role": "assistant", "content": "", "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {}}}]},
             {"role": "tool", "name": "f", "content": "1"}],
        ),
        (
            [{"role": "assistant", "content": None, "function_calls": "f(x)"}],
            [{"role": "assistant", "function_calls": "f(x)"}],
        ),
        ([{"role": "tool", "content": {"mm": 3}}], [{"role": "tool", "content": {"mm": 3}}]),
        (
            [{"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}],
            [{"role": "assistant", "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]}],
        ),
    ],
)  # fmt: skip
def test_a_chat_whose_meaning_is_plain_is_read(messages: Any, read: Any) -> None:
    row = parse({"messages": messages})
    assert (row.error, row.messages) == (None, read)


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([{"role": "system", "content": None}], "content must be"),
        ([{"role": "user", "content": {"t": 3}}], "content must be"),
        ([{"role": "user", "content": None, "mood": "glad"}], "content must be"),
        ([{"role": "assistant", "content": None, "name": "a"}], "content must be"),
        ([{"role": "tool", "content": [{"type": "image_url"}]}], 'not "image_url"'),
        ([[{"role": "user", "content": "Hi"}]], "must be an object"),
        ([{"from": "alien", "value": "Hi"}], "from must be one of system"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], 'not "image_url"'),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "without its text"),
        ("Hi", "no JSON list"),
        ("[{'role': 'user', 'content': 'Hi'}]", "no JSON list of messages, but one as Python"),
        ([{"role": "assistant", "tool_calls": "f(x)"}], "must be a list of calls"),
        ([{"role": "assistant", "content": "", "tool_calls": [3]}], "must be a list of calls"),
    ],
)
def test_any_other_chat_is_refused_with_its_place(messages: Any, word: str) -> None:
    error = parse({"messages": messages}).error
    assert error is not None
    assert (error.code, word in error.message) == (ErrorCode.INVALID_ROW, True)


def test_messages_may_stand_in_a_prompt_column(tmp_path: Path) -> None:
    assert parse({"prompt": HI}, messages_column="prompt").messages == HI
    assert parse({"prompt": HI}).messages == HI
    pq.write_table(pa.table({"prompt": [HI]}), tmp_path / "a.parquet")
    for column in ("prompt", "messages"):
        (row,) = Reader(InputSpec((str(tmp_path / "a.parquet"),), messages_column=column))
        assert (row.error, row.messages) == (None, HI)


def test_nulls_that_arrow_pads_are_gone_at_every_depth(tmp_path: Path) -> None:
    def call(**arguments: int) -> list[dict[str, Any]]:
        return [{"function": {"name": "f", "arguments": arguments}}]

    rows = [
        [{"role": "assistant", "content": "", "tool_calls": call(x=1)}],
        [{"role": "assistant", "content": "", "tool_calls": call(y=2)}],
        [{"role": "user", "content": "Hi"}],
    ]
    pq.write_table(pa.table({"messages": rows}), tmp_path / "a.parquet")
    read = Reader(InputSpec((str(tmp_path / "a.parquet"),)))
    assert [row.messages for row in read] == rows


def test_json_columns_give_what_the_json_lines_give(tmp_path: Path) -> None:
    rows = [[{"role": "user", "content": "hi"}], parts("a")]
    texts = [[json.dumps(message) for message in chat] for chat in rows]
    column = pa.array(texts).cast(pa.list_(pa.json_()))
    extra = pa.array(['"word"', '{"a": 1}']).cast(pa.json_())
    table = pa.table(
        {"messages": column, "extra": extra, "top_k": pa.array(["3", "4"]).cast(pa.json_())}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    reader = Reader(InputSpec((str(tmp_path / "a.parquet"),)))
    read = list(reader)
    assert [row.messages for row in read] == rows
    assert [row.kept["extra"] for row in read] == ["word", '{"a": 1}']
    assert [row.params.top_k for row in read] == [3, 4]
    assert reader.kept_schema == [("extra", pa.string())]


def test_kept_json_is_spelt_as_it_was(tmp_path: Path) -> None:
    texts = ['{"b": 1.10, "a": null, "b": 2}', "1e400", "[-0, 18446744073709551616]"]
    table = pa.table({"prompt": ["a"] * 3, "extra": pa.array(texts).cast(pa.json_())})
    pq.write_table(table, tmp_path / "a.parquet")
    read = Reader(InputSpec((str(tmp_path / "a.parquet"),)))
    assert [row.kept["extra"] for row in read] == texts


KEPT = {
    "moments": (pa.list_(pa.int64()), [[1], []], pa.list_(pa.timestamp("ns"))),
    "durations": (pa.struct([("d", pa.int64())]), [{"d": 1}, None],
                  pa.struct([("d", pa.duration("ns"))])),
    "half": (pa.float16(), [0.5, None], pa.float16()),
    "time": (pa.time32("ms"), [1, None], pa.time32("ms")),
    "date": (pa.date32(), [1, None], pa.date32()),
    "decimal": (pa.decimal128(38, 2), [Decimal("1.25"), None], pa.decimal128(38, 2)),
}  # fmt: skip
BYTES = b"0123456789abcdef"
DIGITS = "12345678901234567890123456789012345678901.5"
ENTRY = pa.struct([("key", pa.string()), ("value", pa.timestamp("ns"))])
UUIDS = pa.list_(pa.uuid())
TENSOR = pa.fixed_shape_tensor(pa.float32(), [2])
CHANGED: dict[str, tuple[pa.DataType, list[Any], pa.DataType, pa.DataType, list[Any]]] = {
    # stored as, values, type in the input; type in the output, values there
    "bool8": (pa.int8(), [2, None], pa.bool8(), pa.bool_(), [True, None]),
    "uuid": (pa.binary(16), [BYTES, None], pa.uuid(), pa.string(), [str(UUID(bytes=BYTES)), None]),
    "uuids": (pa.list_(pa.binary(16)), [[BYTES, None], None], UUIDS,
              pa.list_(pa.string()), [[str(UUID(bytes=BYTES)), None], None]),
    "map": (pa.map_(pa.string(), pa.int64()), [[("a", 1), ("a", 2)], None],
            pa.map_(pa.string(), pa.timestamp("ns")),
            pa.list_(ENTRY), [[{"key": "a", "value": 1}, {"key": "a", "value": 2}], None]),
    "view": (pa.string(), ["a", None], pa.string_view(), pa.string(), ["a", None]),
    "views": (pa.list_(pa.binary()), [[b"a"], None], pa.list_(pa.binary_view()),
              pa.list_(pa.binary()), [[b"a"], None]),
    "list_view": (pa.list_view(pa.int8()), [[1], None], pa.list_view(pa.int8()),
                  pa.list_(pa.int8()), [[1], None]),
    "short_decimal": (pa.decimal32(5, 2), [Decimal("1.25"), None], pa.decimal32(5, 2),
                      pa.decimal128(5, 2), [Decimal("1.25"), None]),
    "long_decimal": (pa.decimal256(60, 1), [Decimal(DIGITS), None], pa.decimal256(60, 1),
                     pa.string(), [DIGITS, None]),
    "tensor": (pa.list_(pa.float32(), 2), [[1, 2], [3, 4]], TENSOR,
               pa.list_(pa.float32()), [[1, 2], [3, 4]]),
    "vectors": (pa.list_(pa.float32(), 2), [[1, 2], [3, 4]], pa.list_(pa.float32(), 2),
                pa.list_(pa.float32()), [[1, 2], [3, 4]]),
    "inner": (pa.struct([("m", pa.map_(pa.int8(), pa.int8()))]), [{"m": [(1, 2)]}, None],
              pa.struct([("m", pa.map_(pa.int8(), pa.int8()))]),
              pa.struct([("m", pa.list_(pa.struct([("key", pa.int8()), ("value", pa.int8())])))]),
              [{"m": [{"key": 1, "value": 2}]}, None]),
}  # fmt: skip


def column_of(stored: pa.DataType, values: list[Any], kind: pa.DataType) -> pa.Array:
    array = pa.array(values, stored)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, array)
    return array if stored == kind else array.cast(kind)


def kept_of(file: Path) -> pa.RecordBatch:
    """The kept columns of a file, as the output has them."""
    reader = Reader(InputSpec((str(file),)))
    rows = list(reader)
    assert [row.error for row in rows] == [None, None]
    out = [OutputRow(row.index, 0, "", "ok", kept=row.kept) for row in rows]
    batch = record_batch(out, output_schema(reader.kept_schema))
    return batch.select([name for name, _ in reader.kept_schema])


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_column_comes_out_as_it_went_in(tmp_path: Path, name: str) -> None:
    column = column_of(*KEPT[name])
    pq.write_table(pa.table({"prompt": ["a", "b"], "x": column}), tmp_path / "a.parquet")
    assert kept_of(tmp_path / "a.parquet").column("x").equals(column)


@pytest.mark.parametrize("name", CHANGED)
def test_a_type_that_a_reader_cannot_load_is_kept_as_one_that_it_can_and_told_once(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored, values, kind, kept, right = CHANGED[name]
    column = column_of(stored, values, kind)
    pq.write_table(pa.table({"prompt": ["a", "b"], "x": column}), tmp_path / "a.parquet")
    told = pq.read_schema(tmp_path / "a.parquet").field("x").type
    found = kept_of(tmp_path / "a.parquet").column("x")
    assert found.type == kept
    assert found.cast(stored_type(kept)).to_pylist() == right
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"column 'x' is {told}, which not every reader of Parquet loads: it is kept as {found.type}"
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_reader_loads_every_kept_type(tmp_path: Path) -> None:
    import datasets
    import duckdb
    import pandas as pd

    polars = pytest.importorskip("polars")
    columns = {name: column_of(*item[:3]) for name, item in (KEPT | CHANGED).items()}
    pq.write_table(pa.table({"prompt": ["a", "b"], **columns}), tmp_path / "a.parquet")
    batch = kept_of(tmp_path / "a.parquet")
    out = str(tmp_path / "out.parquet")
    pq.write_table(pa.Table.from_batches([batch]), out)
    assert duckdb.sql(f"select * from '{out}'").columns == batch.schema.names
    assert duckdb.sql(f"select long_decimal from '{out}'").fetchall()[0] == (DIGITS,)
    assert polars.read_parquet(out)["long_decimal"].to_list() == [DIGITS, None]
    assert pd.read_parquet(out)["bool8"].tolist() == [True, None]
    loaded = datasets.Dataset.from_parquet(out, cache_dir=str(tmp_path))
    assert loaded[0]["inner"] == {"m": [{"key": 1, "value": 2}]}


def test_a_uuid_id_is_its_text_and_a_type_that_is_no_id_is_refused_once(tmp_path: Path) -> None:
    name = "886313e1-3b8a-5372-9b90-0c9aee199e5d"
    ids = pa.array([UUID(name).bytes], pa.binary(16)).cast(pa.uuid())
    pq.write_table(pa.table({"prompt": ["a"], "id": ids}), tmp_path / "a.parquet")
    assert [row.id for row in Reader(InputSpec((str(tmp_path / "a.parquet"),)))] == [name]
    pq.write_table(pa.table({"prompt": ["a"], "id": [1.0]}), tmp_path / "b.parquet")
    with pytest.raises(InvalidDataError, match="'id' holds double, and an id is a string"):
        Reader(InputSpec((str(tmp_path / "b.parquet"),)))


@pytest.mark.parametrize(
    "neutral",
    [
        {"service_tier": "auto"}, {"parallel_tool_calls": None}, {"unheard_of": None},
        {"modalities": ["text"]}, {"best_of": 1}, {"tool_choice": "none"}, {"priority": 0},
        {"n": 3, "best_of": 3}, {"parallel_tool_calls": False},
        {"include_stop_str_in_output": False}, {"add_generation_prompt": True},
        {"add_special_tokens": False}, {"extra_body": {"priority": 1}},
        {"logprobs": False, "top_logprobs": None}, {"stop": None}, {"top_k": -1},
        {"prompt_cache_key": "k"}, {"stop": list("abcde")}, {"response_format": None},
    ],
)  # fmt: skip
def test_a_value_that_changes_nothing_is_accepted(neutral: dict[str, Any]) -> None:
    body = {"messages": HI, **neutral}
    row = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body}
    assert parse(row).error is None


@pytest.mark.parametrize(
    "setting",
    [
        {"generation_config": {"max_new_tokens": 3}}, {"stop_regex": "a"}, {"max_length": 20},
        {"suffix": "x"}, {"repetition_detection": 1}, {"best_of": 2},
        {"system": "Be brief"}, {"enable_thinking": False}, {"documents": [{"text": "x"}]},
        {"chat_template": "x"}, {"eos_token_id": 3}, {"dola_layers": "high"},
        {"lora_request": {"name": "a"}}, {"force_words_ids": [[3]]},
    ],
)  # fmt: skip
def test_a_setting_is_served_or_refused_and_never_a_column(setting: dict[str, Any]) -> None:
    row = parse({"prompt": "Hi", **setting})
    assert row.error is not None
    assert (row.error.code, row.kept) == (ErrorCode.UNSUPPORTED_SETTING, {})
    (name,) = setting
    kept = parse({"prompt": "Hi", **setting}, keep_columns=name)
    assert (kept.error, list(kept.kept)) == (None, [name])


def test_parameters_are_read_under_every_tool_s_name_and_holder() -> None:
    rows = [
        {"max_output_tokens": 5, "min_new_tokens": 2},
        {"extra_body": {"max_tokens": 5, "min_tokens": 2}},
        {"extra_body": '{"max_tokens": 5}', "sampling_params": {"min_tokens": 2}},
    ]
    read = [parse({"prompt": "Hi", **row}) for row in rows]
    assert [row.error for row in read] == [None] * 3
    assert {(row.params.max_tokens, row.params.min_tokens) for row in read} == {(5, 2)}
    wrong = parse({"prompt": "Hi", "max_output_tokens": 5, "max_tokens": 6}).error
    assert wrong is not None
    assert wrong.code is ErrorCode.INVALID_PARAM


@pytest.mark.parametrize(
    ("name", "ours"),
    [("stop_sequences", "stop"), ("num_predict", "max_tokens"), ("maxTokens", "max_tokens"),
     ("system_prompt", "system"), ("gen_kwargs", "params"), ("frequency_penality",
     "frequency_penalty"), ("topP", "top_p"), ("stopSequences", "stop"), ("systemInstruction",
     "system"), ("generationConfig", "params"), ("random_seed", "seed"),
     ("parameters", "params"), ("until", "stop")],
)  # fmt: skip
def test_another_tool_s_name_of_a_setting_is_said_to_be_none(name: str, ours: str) -> None:
    assert near_miss(name) == ours


def test_what_the_template_reads_comes_with_the_row() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    row = parse(
        {
            "messages": HI,
            "enable_thinking": False,
            "tools": tools,
            "system": "Short.",
            "chat_template_kwargs": {"x": 1},
            "sampling_params": {"max_tokens": 3},
        }
    )
    assert row.error is None
    assert row.template_kwargs == {"enable_thinking": False, "tools": tools, "x": 1}
    assert row.messages == [{"role": "system", "content": "Short."}, *HI]
    assert row.params.max_tokens == 3
    text = {"tools": json.dumps(tools), "chat_template_kwargs": '{"x": 1}', "tool_choice": "auto"}
    assert parse({"messages": HI, **text}).template_kwargs == {"tools": tools, "x": 1}
    wrong = parse({"messages": HI, "tools": "f"}).error
    assert wrong is not None
    assert wrong.code is ErrorCode.INVALID_PARAM


def test_a_final_message_is_continued_where_the_template_left_it() -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}"
    chat = [*HI, {"role": "assistant", "content": "Sure, "}]
    text = ChatTemplate(template, {}).render(chat, {"continue_final_message": True})
    assert text == "<user>Hi</><assistant>Sure,"


def test_a_column_that_is_nearly_a_parameter_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    parser = RowParser(InputSpec(()), SamplingParams(), KeptColumns("all"))
    with caplog.at_level(logging.WARNING):
        for index in range(3):
            assert (
                parser.parse(index, "f", {"prompt": "a", "temprature": 1, "step": 2}).error is None
            )
    (record,) = caplog.records
    assert "'temprature' is no parameter and changes nothing; did you mean temperature?" in (
        record.getMessage()
    )


def test_openai_rows_in_a_table_are_those_of_the_lines(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    bodies = [
        {"messages": HI, "tools": tools, "temperature": 0.5},
        {"messages": [{**HI[0], "name": "n"}], "max_tokens": 3},
        {"prompt": "raw", "stop": ["x"]},
    ]
    urls = ["/v1/chat/completions", "/v1/chat/completions", "/v1/completions"]
    lines = [
        {"custom_id": f"c{number}", "method": "POST", "url": url, "body": body}
        for number, (url, body) in enumerate(zip(urls, bodies, strict=True))
    ]
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    wanted = [parse(line) for line in lines]
    for body in (bodies, [json.dumps(one) for one in bodies]):
        pq.write_table(pa.table({**columns, "body": body}), tmp_path / "a.parquet")
        for keep in ("all", "none"):
            spec = InputSpec((str(tmp_path / "a.parquet"),), keep_columns=keep)
            assert [said(row) for row in Reader(spec)] == [said(row) for row in wanted]


def said(row: InputRow) -> tuple[Any, ...]:
    return row.id, row.prompt, row.messages, row.params, row.template_kwargs, row.kept, row.error


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ({"name": "f", "arguments": {"x": 1}}, {"x": 1}),
        ({"id": "c1", "function": {"name": "f", "arguments": None}}, {}),
        ({"function": {"name": "f"}}, {}),
    ],
)
def test_a_call_is_read_in_openais_form(call: dict[str, Any], arguments: Any) -> None:
    chat = [*HI, {"role": "assistant", "content": "", "tool_calls": [call]}]
    (read,) = read_messages(chat)[1]["tool_calls"]
    assert read["function"] == {"name": "f", "arguments": arguments}
    assert read.get("id") == call.get("id")
