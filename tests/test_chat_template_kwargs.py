"""`--chat-template-kwargs`: what every chat's template reads, unless the row says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, write_rows

from batchgen.engine.request import SamplingParams
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.fields.settings import with_default_kwargs
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec
from batchgen.job.templates.chat_template import ChatTemplate

TEMPLATE = "{{ enable_thinking }} {{ mood }} {{ messages[0].content }}"
CHAT = [{"role": "user", "content": "x"}]
ROWS: list[dict[str, Any]] = [
    {"messages": CHAT},
    {"messages": CHAT, "enable_thinking": True},
    {"messages": CHAT, "params": {"chat_template_kwargs": {"mood": "glad"}}},
    {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": CHAT}},
    {"prompt": "plain"},
]
GIVEN = '{"enable_thinking": false, "mood": "calm"}'


def run(tmp_path: Path, kwargs: str | None, code: int = 0, *more: object) -> str:
    source = write_rows(tmp_path / "in.jsonl", ROWS)
    args = ["run", "-i", source, "-o", tmp_path / "o.parquet", "--engine", "echo"]
    flags = [] if kwargs is None else ["--chat-template-kwargs", kwargs]
    result = batchgen(*args, "--chat-template", TEMPLATE, *flags, *more)
    assert result.returncode == code, result.stderr
    return result.stderr


def prompts(tmp_path: Path) -> list[str]:
    found: list[str] = pq.read_table(tmp_path / "o.parquet")["prompt"].to_pylist()
    return found


def test_a_default_goes_to_every_chat_and_a_row_s_own_wins(tmp_path: Path) -> None:
    run(tmp_path, GIVEN)
    both = "False calm x"
    assert prompts(tmp_path) == [both, "True calm x", "False glad x", both, "plain"]
    changed = run(tmp_path, '{"enable_thinking": false, "mood": "sad"}', 4)
    assert r'chat_template_kwargs.mood: "\"calm\"" -> "\"sad\""' in changed
    assert "chat_template_kwargs.enable_thinking" in run(tmp_path, None, 4)
    run(tmp_path, GIVEN)


def test_a_plain_prompt_made_a_chat_gets_it_too(tmp_path: Path) -> None:
    run(tmp_path, GIVEN, 0, "--as-chat")
    assert prompts(tmp_path)[-1] == "False calm plain"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[1]", "JSON object"),
        ("enable_thinking=false", "JSON object"),
        ('{"continue_final_message": true, "add_generation_prompt": true}', "cannot both"),
    ],
)
def test_what_is_no_json_object_is_a_usage_error(tmp_path: Path, wrong: str, said: str) -> None:
    assert said in run(tmp_path, wrong, 2)


def test_a_default_that_excludes_a_row_s_own_wish_is_left_out() -> None:
    go_on, opened = {"continue_final_message": True}, {"add_generation_prompt": True}
    assert with_default_kwargs(go_on, opened | {"a": 1}) == go_on | {"a": 1}
    assert with_default_kwargs(opened, go_on) == opened
    assert with_default_kwargs({}, go_on) == go_on


@pytest.mark.parametrize("name", ["prefix", "partial"])
def test_a_turn_that_says_it_is_to_be_continued_is(name: str) -> None:
    """Mistral's and Moonshot's way, whether or not the template reads the name."""
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes", name: True}]
    for ending in ("</>", f"{{% if not m.{name} %}}</>{{% endif %}}"):
        source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + ending + "{% endfor %}"
        row = parsed({"messages": chat})
        opened = ChatTemplate(source, {}).render(row.messages or [], row.template_kwargs)
        assert opened == "<user>Hi</><assistant>Yes"
    chat.append({"role": "user", "content": "And?"})
    assert not parsed({"messages": chat}).template_kwargs
    row = parsed({"messages": chat[:2], "add_generation_prompt": True})
    assert row.template_kwargs == {"add_generation_prompt": True}


def parsed(row: dict[str, Any]) -> InputRow:
    parser = RowParser(InputSpec(()), SamplingParams(), KeptColumns("all"))
    return parser.parse(0, "f", row)
