"""`batchgen preview` shows what a run would give the model, and who set what; never with torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from echo_runs import environment, write_rows
from tokenizer_folders import make

from batchgen.cli.preview import preview
from batchgen.job.model.files import resolve_model
from batchgen.job.text.tokenizer import load_codec

ROWS: list[dict[str, Any]] = [
    {"id": "a", "messages": [{"role": "user", "content": "héllo"}], "temperature": 0.5},
    {"id": "b", "prompt": "Hello world", "max_tokens": 7},
    {"id": "c", "prompt": 5},
    {"id": "d", "prompt": "Hello " * 40},
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = make(tmp_path / "m", "gpt2")
    (folder / "generation_config.json").write_text('{"do_sample": true, "top_p": 0.9}')
    return folder


def shown(tmp_path: Path, model: Path, *more: str, **env: str) -> list[dict[str, Any]]:
    source = write_rows(tmp_path / "in.jsonl", ROWS)
    args = ["--in", str(source), "--model", str(model), "--json", *more]
    result = CliRunner(env=env).invoke(preview, args, catch_exceptions=False)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_row_is_shown_as_the_model_will_see_it(tmp_path: Path, model: Path) -> None:
    chat, plain, bad = shown(tmp_path, model, "--system", "Be brief.")
    codec = load_codec(resolve_model(str(model)))
    messages = [{"role": "system", "content": "Be brief."}, *ROWS[0]["messages"]]
    assert chat["prompt"] == codec.render_text(messages)
    assert chat["token_ids"] == codec.render(messages)
    assert chat["num_tokens"] == len(chat["token_ids"]) == len(chat["pieces"])
    assert "".join(plain["pieces"]) == "Hello world"
    assert (bad["error_code"], bad["index"]) == ("invalid_row", 2)
    assert chat["settings"]["system"] == {"value": "Be brief.", "origin": "flag"}


def test_it_says_where_each_setting_came_from(tmp_path: Path, model: Path) -> None:
    chat, plain, _ = shown(tmp_path, model, "--max-tokens", "9", BATCHGEN_MIN_P="0.1")

    def origins(row: dict[str, Any]) -> dict[str, str]:
        names = ("temperature", "max_tokens", "min_p", "top_p", "n")
        return {name: row["settings"][name]["origin"] for name in names}

    others = {"min_p": "environment", "top_p": "generation_config", "n": "built-in"}
    assert origins(chat) == {"temperature": "row", "max_tokens": "flag", **others}
    assert origins(plain)["max_tokens"] == "row"
    assert origins(plain)["temperature"] == "generation_config"


def test_rows_are_chosen_by_index_and_id(tmp_path: Path, model: Path) -> None:
    assert [row["id"] for row in shown(tmp_path, model, "--rows", "1", "--id", "d")] == ["b", "d"]
    assert len(shown(tmp_path, model, "-n", "1")) == 1
    assert shown(tmp_path, model, "--id", "nobody") == []


def test_what_would_be_cut_or_too_long_is_shown(tmp_path: Path, model: Path) -> None:
    at = ("--id", "d", "--max-model-len", "20")
    (long,) = shown(tmp_path, model, *at)
    assert long["error_code"] == "prompt_too_long"
    (cut,) = shown(tmp_path, model, *at, "--overlong", "truncate-left")
    assert (cut["cut"], cut["num_tokens"], cut["error_code"]) == (True, 10, None)


def test_it_is_readable_and_imports_no_torch(tmp_path: Path, model: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ROWS)
    code = (
        "import sys; from batchgen.__main__ import main;"
        "code = main(sys.argv[1:]); print(code, 'torch' in sys.modules)"
    )
    args = ["preview", "--in", str(source), "--model", str(model)]
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
    assert "temperature = 0.5 (row)" in done.stdout
    assert "--- prompt\n<|im_start|>user\nhéllo<|im_end|>\n<|im_start|>assistant\n" in done.stdout
