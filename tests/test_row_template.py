"""`--template`: a row's columns become its prompt, or its user's message, and nothing else does."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from echo_runs import write_rows

from batchgen.cli.run import run
from batchgen.cli.validate import validate
from batchgen.errors import FingerprintMismatchError, RowError, UsageError
from batchgen.job.templates.row_template import RowTemplate

ROWS: list[dict[str, Any]] = [
    {"id": "a", "title": "Cats & <dogs>", "tags": ["x", "y"], "prompt": "unread"},
    {"id": "b", "titel": "typo", "tags": []},
    {"id": "c", "title": None, "tags": []},
    {"id": "d", "title": "é", "tags": [], "temperature": 31.5},
]
TEMPLATE = "Title: {{ title }}\n{% for tag in tags %}- {{ tag }}\n{% endfor %}Go\n"
PROMPTS = ["Title: Cats & <dogs>\n- x\n- y\nGo", None, None, "Title: é\nGo"]


def generate(tmp_path: Path, rows: Path, *more: object, template: str = TEMPLATE) -> Result:
    file = tmp_path / "ask.j2"
    file.write_text(template)
    args = ["-i", rows, "-o", tmp_path / "o.parquet", "--engine", "echo", "--template", file]
    return CliRunner().invoke(run, [str(one) for one in (*args, "--max-failures", "100%", *more)])


def columns(tmp_path: Path, name: str) -> list[Any]:
    values: list[Any] = pq.read_table(tmp_path / "o.parquet")[name].to_pylist()
    return values


def test_a_row_s_columns_become_its_prompt_and_faults_its_error(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS)
    assert generate(tmp_path, source).exit_code == 0
    assert columns(tmp_path, "prompt") == PROMPTS
    assert columns(tmp_path, "title") == ["Cats & <dogs>", None, None, "é"]
    _, missing, null, _ = columns(tmp_path, "error_message")
    assert missing == "ask.j2:1: in.jsonl:2: the row has no column 'title'; did you mean 'titel'?"
    assert null.startswith("ask.j2:1: in.jsonl:3: a null would be written (null here: title)")
    assert columns(tmp_path, "error_code")[1:3] == ["template_error"] * 2


def test_parquet_columns_give_the_prompts_of_the_same_rows_as_lines(tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist([row for row in ROWS if "title" in row]), source)
    assert generate(tmp_path, source, "--keep-columns", "none").exit_code == 0
    assert columns(tmp_path, "prompt") == [PROMPTS[0], *PROMPTS[2:]]


def test_as_chat_puts_it_into_a_user_message_after_the_system_one(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS[:1])
    file = tmp_path / "system.txt"
    file.write_text("Be brief.")
    generate(tmp_path, source, "--as-chat", "--system", f"@{file}", template="{{ tags|join }}")
    assert columns(tmp_path, "prompt") == ["system: Be brief.\nuser: xy\nassistant: "]


def test_a_name_that_the_template_reads_is_no_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"temperature": 310.5, "params": {"seed": 7}}])
    with caplog.at_level(logging.WARNING, "batchgen"):
        template = RowTemplate.read("{{ temperature }}")
        assert template.variables == {"temperature"}
        generate(tmp_path, source, template="{{ temperature }}")
    assert columns(tmp_path, "prompt") == ["310.5"]
    assert columns(tmp_path, "seed") == [7]


def test_a_byte_order_mark_of_a_file_is_in_no_prompt(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"title": "a"}])
    (tmp_path / "system.txt").write_text("\ufeffBe brief.")
    more = ("--as-chat", "--system", f"@{tmp_path / 'system.txt'}")
    assert generate(tmp_path, source, *more, template="\ufeff{{ title }}").exit_code == 0
    assert columns(tmp_path, "prompt") == ["system: Be brief.\nuser: a\nassistant: "]


def test_another_template_is_another_job(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS)
    generate(tmp_path, source)
    changed = generate(tmp_path, source, template=TEMPLATE + "!")
    assert isinstance(changed.exception, FingerprintMismatchError)
    assert "template" in str(changed.exception)
    manifest = json.loads((tmp_path / "o.parquet.ckpt" / "manifest.json").read_text())
    assert len(manifest["fingerprint"]["template"]) >= 16


def test_validate_lists_what_the_template_refuses(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS)
    listed = CliRunner().invoke(validate, ["-i", str(source), "--template", TEMPLATE, "--json"])
    *bad, counts = map(json.loads, listed.stdout.splitlines())
    assert [(row["id"], row["error_code"]) for row in bad] == [
        ("b", "template_error"),
        ("c", "template_error"),
    ]
    assert (listed.exit_code, counts["good"]) == (65, 2)


def test_an_openai_row_brings_its_own_prompt(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    row = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body}
    listed = CliRunner().invoke(
        validate, ["-i", str(write_rows(tmp_path / "in.jsonl", [row])), "--template", "{{ x }}"]
    )
    assert "--template reads plain rows" in listed.stdout


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ a", "line 1"),
        ("{{ a | nofilter }}", "no filter named 'nofilter'"),
        ("{% include 'b.j2' %}", "reads no other"),
        ("{{ a | random }}", "no filter named 'random'"),
        ("nowhere.j2", "cannot be read"),
    ],
)
def test_a_template_that_cannot_work_is_a_usage_error(template: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RowTemplate.read(template)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ a.nme }}", "has no attribute 'nme'; did you mean 'name'?"),
        ("{{ row['my colum'] }}", "no column 'my colum'; did you mean 'my column'?"),
        ("{{ a.pop() }}", "unsafe"),
        ("{{ raise_exception('not this one') }}", "not this one"),
        ("x\n{{ 1 // 0 }}", "t.j2:2: in.jsonl:1: "),
        ("{{ a.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_a_row_makes_of_the_template_says_where(template: str, said: str) -> None:
    row = {"a": {"name": "n"}, "my column": 1}
    with pytest.raises(RowError) as raised:
        RowTemplate(template, "t.j2").render(row, "/data/in.jsonl:1")
    assert said in raised.value.message


def test_odd_names_and_defaults_are_within_reach() -> None:
    template = RowTemplate("{{ row['my column'] }}{{ b | default('-') }}{{ c or '' }}", "t")
    assert template.render({"my column": 1, "c": None}, "f:1") == "1-"


def test_nothing_is_told_of_a_system_message_that_is_put_before_a_prompt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "x"}])
    with caplog.at_level(logging.WARNING, "batchgen"):
        CliRunner().invoke(validate, ["-i", str(source), "--as-chat", "--system", "yours"])
    assert not caplog.records


def test_a_system_message_of_the_row_stands_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chats = [[{"role": "system", "content": "mine"}, {"role": "user", "content": "x"}]] * 3
    source = write_rows(tmp_path / "in.jsonl", [{"messages": chat} for chat in chats])
    with caplog.at_level(logging.WARNING, "batchgen"):
        CliRunner().invoke(validate, ["-i", str(source), "--system", "yours"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{source}:1: the chat's own system message stands, not --system (said once)"
    ]
