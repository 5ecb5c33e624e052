"""`batchgen validate`: every bad row with its place, and an exit code that scripts can trust."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from echo_runs import loaded_modules, write_rows
from tokenizer_folders import CHATML, make

from batchgen.cli.main import cli
from batchgen.cli.validate import validate

SAMPLES = Path(__file__).parent.parent / "sample_data"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(validate, list(arguments))


def test_a_good_file_exits_0() -> None:
    for name in ("prompts.jsonl", "general.jsonl", "general.parquet", "chat.jsonl"):
        result = call("--in", str(SAMPLES / name))
        assert result.exit_code == 0, result.output
        assert "0 bad" in result.stdout


def test_every_bad_row_is_listed_with_line_id_code_and_message() -> None:
    path = str(SAMPLES / "bad_rows.jsonl")
    result = call("--in", path, "--served-model-name", "mine", "--json")
    assert result.exit_code == 65
    *rows, counts = map(json.loads, result.stdout.splitlines())
    codes = {row["error_code"] for row in rows}
    assert codes == {
        "invalid_json",
        "invalid_row",
        "missing_prompt",
        "empty_prompt",
        "duplicate_id",
        "unknown_param",
        "invalid_param",
        "model_mismatch",
        "unsupported_url",
    }
    assert counts["bad"] == len(rows)
    assert counts["rows"] == counts["good"] + counts["bad"] == 21
    assert rows[0] == {
        "origin": f"{path}:2",
        "index": 1,
        "id": "1",
        "error_code": "invalid_json",
        "error_message": "Expecting ',' delimiter at character 52",
    }
    text = call("--in", path, "--served-model-name", "mine").stdout.splitlines()
    assert len(text) == len(rows) + 1
    assert f'{path}:11: id "good-1": duplicate_id: ' in "\n".join(text)


def test_a_bad_row_is_one_line_whatever_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a\\nb\\u2028", "params": {"x\\ny": 1}, "prompt": "p"}\n')
    assert len(call("--in", str(path)).stdout.split("\n")) == 3


def test_thousands_of_bad_rows_are_all_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{oops\n" * 5000)
    result = call("--in", str(path))
    assert result.exit_code == 65
    assert len(result.stdout.splitlines()) == 5001


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--in", "missing.jsonl"], 66), ([], 2), (["--in", "{}", "--x"], 2)]
)
def test_other_mistakes_have_their_own_exit_codes(arguments: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "batchgen", "validate", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr


def test_validating_imports_no_torch() -> None:
    assert "torch" not in loaded_modules("validate", "--in", SAMPLES / "prompts.jsonl")


def check(path: Path, *more: str) -> list[str]:
    result = call("--in", str(path), "--engine", "echo", "--json", *more)
    return [row["error_code"] for row in map(json.loads, result.stdout.splitlines()[:-1])]


def test_with_a_model_prompts_that_do_not_fit_are_found(tmp_path: Path) -> None:
    prompts = ["x" * 8, "x" * 9, "x" * 10, "", "é" * 5]
    path = write_rows(tmp_path / "a.jsonl", ({"prompt": prompt} for prompt in prompts))
    assert check(path) == ["empty_prompt"]
    assert check(path, "--max-model-len", "10") == [
        "prompt_too_long", "empty_prompt", "prompt_too_long",
    ]  # fmt: skip


def test_ids_that_the_model_has_not_are_said_once_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(tmp_path / "m", "gpt2")
    known = {"stop_token_ids": [1], "logit_bias": {"2": 1}, "allowed_token_ids": [3]}
    unknown = {
        "stop_token_ids": [1, 128009],
        "logit_bias": {"128009": 1},
        "suppress_tokens": [10**6],
    }
    rows = [{"prompt": "a", **settings} for settings in (known, unknown, unknown)]
    path = write_rows(tmp_path / "in.jsonl", rows)
    assert call("--in", str(path), "--engine", "echo").exit_code == 0
    assert caplog.messages == []
    assert call("--in", str(path), "--model", str(folder)).exit_code == 0
    names = ("stop_token_ids: token 128009", "logit_bias: token 128009", "suppress_tokens: token 1")
    assert len(caplog.messages) == len(names)
    for name, told in zip(names, caplog.messages, strict=True):
        assert told.startswith(f"{path}:2: ")
        assert name in told
        assert "changes nothing: the model's ids end at" in told


def test_with_a_model_conversations_that_its_template_refuses_are_found(tmp_path: Path) -> None:
    chats = [[{"role": role, "content": "hello"}] for role in ("user", "nobody", "user")]
    path = write_rows(tmp_path / "a.jsonl", ({"messages": chat} for chat in chats))
    template = "{% if messages[0].role == 'nobody' %}{{ raise_exception('no') }}{% endif %}hello"
    assert check(path, "--chat-template", template) == ["template_error"]


CHAT = [{"role": "user", "content": "Which colour?"}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
MANY: list[dict[str, Any] | str] = [
    {"prompt": "fine"},
    {"prompt": "", "id": "empty"},
    {"prompt": "long " * 60, "id": "long"},
    {"messages": CHAT, "id": "chat"},
    {"messages": [], "id": "no message"},
    {"messages": [{"role": "user", "content": "many " * 60}], "id": "long chat"},
    {"prompt_token_ids": [5, 6, 7]},
    {"prompt_token_ids": [5, 600_000], "id": "outside"},
    {"prompt_token_ids": [3] * 70, "truncate_prompt_tokens": 5},
    {"prompt": "p", "choices": ["a", "b"]},
    {"prompt": "p", "choices": ["a", "a"]},
    {"prompt": "p", "choices": ["a", "b"], "max_tokens": 3},
    {"prompt": "p", "choices": ["a", "b"], "n": 2},
    {"messages": CHAT, "questions": [{"name": "x", "question": "?", "choices": ["a", "b"]}]},
    {"prompt": "p", "logprobs": 3},
    {"prompt": "p", "max_tokens": 9},
    {"prompt": "p", "min_tokens": 6},
    {"prompt": "p", "min_tokens": 40},
    {"prompt": "p", "response_format": SCHEMA},
    {"prompt": "p", "guided_regex": "[", "id": "regex"},
    {"prompt": "p", "guided_choice": ["a", "b"], "stop": ["x"]},
    {"prompt": "p", "system": "of a row"},
    {"messages": CHAT, "chat_template_kwargs": {"refuse": True}},
    {"prompt": "p", "enable_thinking": False},
    {"messages": CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"messages": CHAT, "tool_choice": "required"},
    {"prompt": "p", "adapter": "one"},
    {"prompt": "p", "adapter": "other"},
    {"prompt": "p", "topic": "rain"},
    {"prompt": "p", "topic": None},
    {"prompt": "p", "prompt_logprobs": 1},
    {"prompt": "p", "thinking_token_budget": 4},
    {"prompt": "p", "bad_words": ["no"], "temperature": -1},
    {"prompt": "p", "temperatur": 1, "top_p": 0},
    {"custom_id": "o", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": CHAT}},
    {"custom_id": "m", "method": "POST", "url": "/v1/completions",
     "body": {"prompt": "p", "model": "mine"}},
    {"custom_id": "u", "method": "POST", "url": "/v1/embeddings", "body": {"input": "p"}},
    {"prompt": "p", "id": "fine"},
    {"prompt": "again", "id": "fine"},
    '{"prompt": "broken',
    {"text": "none of the names"},
]  # fmt: skip
TEMPLATE = "{% if refuse %}{{ raise_exception('no') }}{% endif %}" + CHATML
CHAT_FLAGS = ["--as-chat", "--system", "Be brief."]
WITH_BYTES = {
    "choices": ["--choices", "red,blue", "--limit", "30"],
    "tokens": ["--min-tokens", "20", "--max-tokens", "30", "--ignore-model"],
    "score": ["--score"],
    "template": ["--template", "About {{ topic }}."],
    "skip": ["--max-model-len", "40", "--overlong", "skip", "--served-model-name", "mine"],
    "kwargs": ["--chat-template-kwargs", '{"refuse": true}'],
    "columns": ["--prompt-column", "text", "--keep-columns", "topic:int64", "--n", "2"],
    "shard": ["--shard", "1/3", "--max-tokens", "5", "--logprobs", "2"],
}
WITH_TOKENIZER = {
    "none": [],
    "template": ["--template", "About {{ topic }}.", *CHAT_FLAGS],
    "left": ["--max-model-len", "40", "--overlong", "truncate-left", "--choices", "red,blue"],
    "right": ["--max-model-len", "60", "--overlong", "truncate-right", *CHAT_FLAGS],
    "thinking": ["--reasoning-parser", "deepseek_r1", "--reasoning-budget", "8"],
}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("models") / "mine", "gpt2")


def ran(source: Path, out: Path, flags: list[str]) -> dict[int, tuple[str, str]]:
    """Index -> code and id of the rows that a run made error rows, and the number of skipped."""
    args = ["run", "--in", str(source), "--out", str(out), *flags]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code in (0, 3), result.output + str(result.exception)
    files = out.parent.glob("out.parquet*/**/*.parquet") if "--shard" in flags else [out]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {row["index"]: (row["error_code"] or "skipped", row["id"])
            for row in rows if row["status"] != "ok"}  # fmt: skip


def agree(tmp_path: Path, flags: list[str]) -> int:
    """Number of bad rows, which validate and a run find alike."""
    same = ["--engine", "echo", "--chat-template", TEMPLATE, *flags]
    source = write_rows(tmp_path / "in.jsonl", MANY)
    result = call("--in", str(source), "--out", str(tmp_path / "out.parquet"), "--json", *same)
    *bad, counts = map(json.loads, result.stdout.splitlines())
    found = ran(source, tmp_path / "out.parquet", same)
    skipped = {index for index, (code, _) in found.items() if code == "skipped"}
    expected = {index: one for index, one in found.items() if index not in skipped}
    assert {row["index"]: (row["error_code"], row["id"]) for row in bad} == expected
    assert counts["skipped"] == len(skipped)
    assert result.exit_code == 65
    return len(bad)


@pytest.mark.parametrize("flags", WITH_BYTES.values(), ids=WITH_BYTES)
def test_its_verdict_is_what_a_run_with_the_same_flags_makes_of_each_row(
    tmp_path: Path, flags: list[str]
) -> None:
    assert agree(tmp_path, flags) > 4


@pytest.mark.parametrize("flags", WITH_TOKENIZER.values(), ids=WITH_TOKENIZER)
def test_with_a_model_its_verdict_is_a_run_s_too(
    tmp_path: Path, tokenizer_folder: Path, flags: list[str]
) -> None:
    assert agree(tmp_path, ["--model", str(tokenizer_folder), *flags]) > 9
