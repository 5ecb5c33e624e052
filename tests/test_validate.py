"""`batchgen validate`: every bad row with its place, and an exit code that scripts can trust."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from batchgen.cli.validate import validate
from batchgen.job.input.reader import Reader
from batchgen.job.spec import InputSpec
from batchgen.job.text.tokenizer import load_codec
from batchgen.job.verbs.validation import Validation

SAMPLES = Path(__file__).parent.parent / "sample_data"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(validate, list(arguments))


def test_a_good_file_exits_0() -> None:
    for name in ("prompts.jsonl", "prompts.parquet", "chat.jsonl"):
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
        [sys.executable, "-m", "batchgen", "validate", *arguments], capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr


def test_validating_imports_no_torch() -> None:
    code = (
        "import sys; from batchgen.__main__ import main;"
        "code = main(['validate', '--in', sys.argv[1]]); print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SAMPLES / "prompts.jsonl")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 False"


def check(path: Path, max_model_len: int | None = None, template: str | None = None) -> list[str]:
    reader = Reader(InputSpec((str(path),)))
    return [bad.error_code for bad in Validation(reader, load_codec(None, template), max_model_len)]


def test_with_a_model_prompts_that_do_not_fit_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    prompts = ["x" * 8, "x" * 9, "x" * 10, "", "é" * 5]
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    assert check(path) == ["empty_prompt"]
    assert check(path, 10) == ["prompt_too_long", "empty_prompt", "prompt_too_long"]


def test_with_a_model_conversations_that_its_template_refuses_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    chats = [[{"role": role, "content": "hello"}] for role in ("user", "nobody", "user")]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    template = "{% if messages[0].role == 'nobody' %}{{ raise_exception('no') }}{% endif %}hello"
    assert check(path, 100, template) == ["template_error"]
