"""Chats have the tokens of `apply_chat_template`, by the template that transformers would take."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from echo_runs import write_rows
from odd_chats import CHATS, TOOLS, compare
from tokenizer_folders import make

from batchgen.cli.validate import validate
from batchgen.errors import RowError, UsageError
from batchgen.job.ledger.fingerprint import fingerprint_of
from batchgen.job.model.chat_templates import gguf_templates
from batchgen.job.model.files import resolve_model
from batchgen.job.spec import InputSpec, JobSpec
from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.text.tokenizer import load_codec

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATING = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{%- set system, rest = messages[0]['content'] | trim + '\n\n', messages[1:] %}{% else %}
{%- set system, rest = '', messages %}{% endif %}
{%- for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Roles must alternate user/assistant/...') }}{% endif %}
{%- if m['role'] == 'user' %}[INST] {{
 (system if loop.first else '') + m['content'] | trim }} [/INST]
{%- else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"""
THINKING = """{%- if tools %}<tools>{% for t in tools %}
{{ t | tojson }}{% endfor %}</tools>{% endif %}
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}{% generation %}
{%- if m.reasoning_content is string and loop.index0 > ns.last %}<think>{{
m.reasoning_content }}</think>
{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}{% set f = call.function %}
<call>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson(indent=1) }}}</call>
{%- endfor %}{% endgeneration %}
{%- elif m.content is string %}{{ m.content }}{% else %}
{%- for part in m.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>
{%- endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
{%- endif %}"""
MACROS = """{%- macro show(m, depth=0) -%}{{ m.role | upper }}: {{
 caller() if caller else m.content }}
{%- endmacro -%}
{%- for m in messages if m.role != 'developer' %}{% if loop.index > 4 %}{% break %}{% endif %}
{%- call show(m) %}{{ m.content[:40] | replace('<', '&lt;') }}{% endcall %}
{{ '\\n' }}{% endfor %}{% for d in documents or [] %}{{ d.items() | list }}{% endfor %}
{{- strftime_now('%Y-%m-%d') }} {{ reasoning_effort | default('medium') }}{{ dict(a=1) }}"""
OWN = {"chatml": CHATML, "alternating": ALTERNATING, "thinking": THINKING, "macros": MACROS}
CASES = {"parts joined", "arguments parsed", "one BOS", "no content is empty", "answer as JSON"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {kind: make(folder / kind, kind) for kind in ("gpt2", "llama3")}


@pytest.mark.parametrize("kind", ["gpt2", "llama3"])
def test_odd_chats_have_the_tokens_of_apply_chat_template(
    folders: dict[str, Path], kind: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folders[kind]))
    found = {
        (template, chat): compare(source, chat, tokenizer)
        for template, source in OWN.items()
        for chat in CHATS
    }
    wrong = {
        place: what
        for place, what in found.items()
        if what not in ("equal", "both refuse") and not set(what.split(" and ")) <= CASES
    }
    assert not wrong
    assert sum(what == "equal" for what in found.values()) > (40 if kind == "gpt2" else 10)


DUMPING = "{% for m in messages %}{{ m | tojson }}{% endfor %}"


def test_a_turn_that_only_calls_has_no_null_where_the_template_would_write_it() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    written = json.loads(ChatTemplate(DUMPING, {}).render([turn]))
    assert written == {"role": "assistant", "tool_calls": [call]}  # as apply_chat_template has it


def test_an_answer_that_is_an_object_is_shown_where_text_parts_alone_are_read() -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {% for p in m.content %}"
        "{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}|{% endfor %}"
    )
    answers: list[Any] = ['{"mm": 3}', {"mm": 3}]
    texts = [
        ChatTemplate(source, {}).render(
            [{"role": "user", "content": "Hi"}, {"role": "tool", "content": answer}]
        )
        for answer in answers
    ]
    assert texts == ['user: Hi|tool: {"mm": 3}|'] * 2


def test_a_turn_that_is_written_twice_cannot_be_continued() -> None:
    turn = {"role": "assistant", "content": "", "reasoning_content": "I th"}
    with pytest.raises(RowError, match="writes the last message's reasoning_content twice"):
        ChatTemplate(DUMPING, {}).render([turn], {"continue_final_message": "reasoning_content"})


def several(folder: Path, kind: str = "gpt2", **templates: str) -> Path:
    """A model folder whose tokenizer_config lists named templates."""
    make(folder, kind)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = [{"name": k, "template": v} for k, v in templates.items()]
    path.write_text(json.dumps(config))
    return folder


def said(folder: Path, choice: str | None = None, **kwargs: Any) -> str:
    codec = load_codec(resolve_model(str(folder)), choice)
    return codec.render_text([{"role": "user", "content": "x"}], kwargs)


def test_a_chat_with_tools_gets_the_tool_template_as_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    names = {"default": "D{{ messages[0].content }}", "tool_use": "T{{ tools|length }}", "rag": "R"}
    listed = several(tmp_path / "listed", **names)
    beside = make(tmp_path / "beside", "gpt2")
    (beside / "chat_template.jinja").write_text(names["default"])
    (beside / "additional_chat_templates").mkdir()
    for name in ("tool_use", "rag"):
        (beside / "additional_chat_templates" / f"{name}.jinja").write_text(names[name])
    for folder in (listed, beside):
        theirs = AutoTokenizer.from_pretrained(str(folder))
        for choice, tools in ((None, None), (None, TOOLS), ("rag", TOOLS), ("default", TOOLS)):
            chat = [{"role": "user", "content": "x"}]
            wanted = theirs.apply_chat_template(
                chat, tools=tools, chat_template=choice, tokenize=False
            )
            assert said(folder, choice, **({"tools": tools} if tools else {})) == wanted
    assert [said(listed), said(listed, tools=TOOLS), said(listed, "rag")] == ["Dx", "T1", "R"]


def test_an_unknown_name_lists_what_the_model_has(tmp_path: Path) -> None:
    folder = several(tmp_path / "m", default="D", rag="R")
    with pytest.raises(UsageError, match="neither a file nor a template") as raised:
        said(folder, "rga")
    assert "default, rag" in str(raised.value.hint)
    (tmp_path / "own.jinja").write_text("mine {{ messages|length }}")
    assert said(folder, str(tmp_path / "own.jinja")) == "mine 1"


def test_without_a_default_a_chat_is_told_to_choose(tmp_path: Path) -> None:
    folder = several(tmp_path / "m", rag="R", tool_use="T")
    rows = write_rows(tmp_path / "in.jsonl", [{"messages": [{"role": "user", "content": "x"}]}])
    listed = CliRunner().invoke(validate, ["-i", str(rows), "--model", str(folder)])
    assert "--chat-template takes one: rag, tool_use" in listed.stdout
    chosen = ["-i", str(rows), "--model", str(folder), "--chat-template", "rag"]
    assert CliRunner().invoke(validate, chosen).exit_code == 0


def test_a_gguf_file_s_named_templates_are_read() -> None:
    key = "tokenizer.chat_template"
    found = gguf_templates({key: "D", f"{key}.tool_use": "T", "tokenizer.chat_templates": ["x"]})
    assert found == {"default": "D", "tool_use": "T"}


def test_the_template_chosen_by_name_is_in_the_fingerprint(tmp_path: Path) -> None:
    files = resolve_model(str(several(tmp_path / "m", default="D", rag="R", tool_use="T")))

    def digest(choice: str | None) -> tuple[Any, Any]:
        spec = JobSpec(InputSpec(("x",)), tmp_path / "o.parquet", chat_template=choice)
        found = fingerprint_of(spec, files)
        return found["chat_template"], found["model"]["tool_template"]

    assert len({digest(choice)[0] for choice in (None, "default", "rag")}) == 3
    assert len({digest(choice)[1] for choice in (None, "rag")}) == 1


def test_a_setting_that_the_template_does_not_read_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kwargs = {"mood": 1, "enable_thinking": True}
    chat = {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": kwargs}
    rows = write_rows(tmp_path / "in.jsonl", [chat, chat, {**chat, "reasoning_effort": "low"}])
    source = "{% set mood = 2 %}{{ mood }}{% if enable_thinking %}{{ messages }}{% endif %}"
    folder = make(tmp_path / "m", "gpt2")
    with caplog.at_level(logging.WARNING, "batchgen"):
        CliRunner().invoke(
            validate, ["-i", str(rows), "--model", str(folder), "--chat-template", source]
        )
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(": ", 1)[1].split()[0] for line in told] == ["mood", "reasoning_effort"]
    assert told[0].startswith(f"{rows}:1: mood changes nothing: the chat template does not read it")


def test_that_calls_are_not_held_to_a_strict_schema_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    messages = [{"role": "user", "content": "x"}]
    (tool,) = TOOLS
    strict = {**tool, "function": {**tool["function"], "strict": True}}
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"
    free = {"messages": messages, "tools": [strict]}
    odd = {"messages": messages, "chat_template_kwargs": {"tools": "none"}}
    rows = [{"messages": messages, "tools": TOOLS}, {**free, "tool_choice": "required"}, odd]
    path = write_rows(tmp_path / "in.jsonl", [*rows, free, free])
    with caplog.at_level(logging.WARNING, "batchgen"):
        model = str(make(tmp_path / "m", "gpt2"))
        CliRunner().invoke(validate, ["-i", str(path), "--model", model, "--chat-template", source])
    told = [one for one in (record.getMessage() for record in caplog.records) if "strict" in one]
    assert len(told) == 1
    assert told[0].startswith(f"{path}:4: strict holds calls to their schema where tool_choice")


def test_what_the_template_leaves_out_of_the_prompt_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def chat(*roles: str, **more: Any) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": f"{role} 1", **more} for role in roles]}

    call = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    asked = chat("user")["messages"]
    given = [
        {"messages": asked},
        chat("system", "user"),
        chat("system", "user", "system"),
        chat("critic", "user", "critic"),
        {
            "messages": [
                *chat("user")["messages"],
                *chat("assistant", tool_calls=[call])["messages"],
            ]
        },
    ]
    rows = write_rows(tmp_path / "in.jsonl", [*given, *given])
    first = "{% if messages[0].role == 'system' %}{{ messages[0].content | upper }}{% endif %}"
    source = first + "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    folder = make(tmp_path / "m", "gpt2")
    with caplog.at_level(logging.WARNING, "batchgen"):
        CliRunner().invoke(
            validate, ["-i", str(rows), "--model", str(folder), "--chat-template", source]
        )
    told = [record.getMessage().removeprefix(f"{rows}:") for record in caplog.records]
    assert told == [
        f"{line}: the chat template leaves {what} out of the prompt (said once)"
        for line, what in (
            (3, "the content of role 'system'"),
            (4, "the content of role 'critic'"),
            (5, "the content of role 'assistant' beside calls of tools"),
            (5, "calls of tools"),
        )
    ]


def test_a_call_that_the_template_leaves_out_is_said_however_short_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    call = {"id": "functions.a:0", "function": {"name": "a", "arguments": {}}}
    other = {"id": "functions.a:1", "function": {"name": "a", "arguments": {}}}
    chat = [
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "", "tool_calls": [call, other]},
        {"role": "tool", "content": "3"},
    ]
    rows = write_rows(tmp_path / "in.jsonl", [{"messages": chat}])
    silent = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    first = silent + "{{ messages[1].tool_calls[0].function.name }}"
    named = silent + "{% for c in messages[1].tool_calls %}{{ c.function.name }}{% endfor %}"
    by_id = silent + "{% for c in messages[1].tool_calls %}{{ c.id }}{% endfor %}"
    folder = make(tmp_path / "m", "gpt2")
    for source, told in ((silent, 1), (first, 1), (named, 0), (by_id, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "batchgen"):
            arguments = ["-i", str(rows), "--model", str(folder), "--chat-template", source]
            CliRunner().invoke(validate, arguments)
        lines = [record.getMessage() for record in caplog.records]
        assert ["leaves calls of tools out" in line for line in lines] == [True] * told


def test_a_chat_that_has_its_answer_already_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}
    chats: list[dict[str, Any]] = [
        {"messages": [asked]},
        {"messages": [asked, answer], "continue_final_message": True},
        {"messages": [asked, {**answer, "prefix": True}]},
        {"messages": [asked, answer], "add_generation_prompt": False},
        {"messages": [asked, answer]},
    ]
    rows = write_rows(tmp_path / "in.jsonl", [*chats, *chats])
    folder = make(tmp_path / "m", "gpt2")
    with caplog.at_level(logging.WARNING, "batchgen"):
        CliRunner().invoke(validate, ["-i", str(rows), "--model", str(folder)])
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"{rows}:5: the chat ends with the assistant's turn, and a new one")
