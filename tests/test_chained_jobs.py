"""The output of a job is the input of the next: its answers in prompts, its samples told apart."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchgen import LLM
from batchgen.cli.main import cli
from batchgen.errors import ErrorCode, InvalidDataError, UsageError
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.input.reader import Reader
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec

QUESTIONS = [{"id": "a", "prompt": "1+1?", "gold": 2}, {"id": "b", "prompt": "2+2?", "gold": 4}]


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, ["run", "--engine", "echo", *words], obj=False)
    assert done.exit_code == 0, done.output
    return done.output


def rows_of(name: Path) -> list[dict[str, Any]]:
    if name.suffix == ".parquet":
        read: list[dict[str, Any]] = pq.read_table(name).to_pylist()
        return read
    return [json.loads(line) for line in name.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(params=["parquet", "jsonl"])
def answers(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Two samples of each question, with their log-probabilities."""
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    out = tmp_path / f"answers.{request.param}"
    run("--in", str(asked), "--out", str(out), "--n", "2", "--temperature", "1", "--logprobs", "1")
    return out


def test_answers_stand_in_the_next_prompts_and_in_the_next_output(
    answers: Path, tmp_path: Path
) -> None:
    (tmp_path / "judge.j2").write_text("{{ prompt }} {{ completion }} Is it {{ gold }}?")
    out = tmp_path / "judged.parquet"
    keep = "question=id,draft=completion,gold,drawn=sample"
    run("--in", str(answers), "--template", str(tmp_path / "judge.j2"), "--out", str(out),
        "--id-column", "id,sample", "--keep-columns", keep, "--seed", "5")  # fmt: skip
    judged = rows_of(out)
    assert [row["id"] for row in judged] == ["a-0", "a-1", "b-0", "b-1"]
    assert [row["question"] for row in judged] == ["a", "a", "b", "b"]
    assert [int(row["drawn"]) for row in judged] == [0, 1, 0, 1]
    for row, before in zip(judged, rows_of(answers), strict=True):
        assert row["status"] == "ok"
        assert row["draft"] == before["completion"]
        gold = before["gold"]
        assert row["prompt"] == f"{before['prompt']} {before['completion']} Is it {gold}?"


def test_what_an_output_says_of_its_own_rows_is_no_setting_of_the_next_job(
    answers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = InputSpec((str(answers),), id_column="id,sample", keep_columns="none")
    read = list(Reader(spec, flags={"seed": 5}))
    assert "did you mean" not in caplog.text, "nor a slip for one"
    assert [row.error for row in read] == [None] * 4
    assert {(row.params.seed, row.params.logprobs) for row in read} == {(5, None)}


def test_an_output_s_own_columns_are_refused_with_what_to_write(answers: Path) -> None:
    spec = InputSpec((str(answers),), id_column="id,sample")
    with pytest.raises(UsageError, match="'index' has the name of an output column") as refused:
        list(Reader(spec))
    written = re.search(r"--keep-columns (\S+); none", str(refused.value.hint))
    assert written is not None
    rows = list(Reader(replace(spec, keep_columns=written[1])))
    assert [row.error for row in rows] == [None] * 4
    assert {*rows[0].kept} == {"gold", "answer"}
    with pytest.raises(UsageError) as refused:
        list(Reader(replace(spec, prompt_column="completion")))
    assert "--keep-columns gold; none" in str(refused.value.hint)


def test_a_column_called_as_one_of_the_output_s_is_refused_with_a_new_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'index' has the name of an output column") as refused:
        read_jsonl(tmp_path, [{"prompt": "a", "index": 4, "topic": "b"}])
    assert "old_index=index" in str(refused.value.hint)


def read_jsonl(tmp_path: Path, rows: list[dict[str, Any]], **spec: Any) -> list[InputRow]:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(Reader(InputSpec((str(file),), **spec)))


def test_a_column_of_a_new_name_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "x": "1", "y": "2"}]
    (row,) = read_jsonl(tmp_path, rows, keep_columns="y=x")
    assert row.kept == {"y": "1"}
    (row,) = read_jsonl(tmp_path, rows, keep_columns="y=x,x=y")
    assert row.kept == {"y": "1", "x": "2"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    reader = Reader(InputSpec((str(tmp_path / "in.parquet"),), keep_columns="y=x"))
    assert [row.kept for row in reader] == [{"y": "1"}]
    with LLM(engine="echo", keep_columns="y=x") as llm:
        assert [result.columns for result in llm.generate(rows)] == [{"y": "1"}]


@pytest.mark.parametrize("keep", ["a=x,b=x", "a=x,a=y", "a=x,a", "x,b=x"])
def test_a_column_is_kept_once_under_one_name(keep: str) -> None:
    with pytest.raises(UsageError, match="named before"):
        KeptColumns(keep)


def test_an_id_of_several_columns_has_all_of_them(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "doc": "d", "part": 1},
        {"prompt": "p", "doc": "d"},
        {"prompt": "p", "doc": "d", "part": [1]},
    ]
    first, second, third = read_jsonl(tmp_path, rows, id_column="doc, part")
    assert (first.id, first.kept, first.error) == ("d-1", {}, None)
    for row, said in ((second, "part has no value"), (third, "a string or an integer")):
        assert row.error is not None
        assert row.error.code is ErrorCode.INVALID_ROW
        assert said in row.error.message


@pytest.mark.parametrize("keys", ["doc,nope", "nope"])
def test_a_column_of_the_id_that_no_row_has_is_named(tmp_path: Path, keys: str) -> None:
    rows = [{"prompt": "p", "doc": "d"}]
    with pytest.raises(InvalidDataError, match="nope"):
        read_jsonl(tmp_path, rows, id_column=keys)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    with pytest.raises(InvalidDataError, match="nope"):
        Reader(InputSpec((str(tmp_path / "in.parquet"),), id_column=keys))


def test_a_parquet_column_of_token_ids_is_a_column_of_prompts(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"prompt": [5, 6]}]), tmp_path / "in.parquet")
    (row,) = Reader(InputSpec((str(tmp_path / "in.parquet"),)))
    assert (row.prompt_token_ids, row.error) == ([5, 6], None)
