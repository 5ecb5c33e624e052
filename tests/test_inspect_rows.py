"""`batchgen inspect OUT`: rows by id, by index, by what they hold, beside another output's."""

from __future__ import annotations

import json

import pytest
from echo_runs import prompts, write_rows

from batchgen.cli.command import main
from batchgen.report.row_search import Condition


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("inspect")
    made = []
    for name, most in (("a.parquet", "50"), ("b.jsonl", "5")):
        source = write_rows(folder / "in.jsonl", [*prompts(30), "nope"])
        out = str(folder / name)
        words = ["run", "-i", str(source), "-o", out, "--engine", "echo", "--max-tokens", most]
        assert main(words) == 3
        made.append(out)
    return made[0], made[1]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["inspect", *words]) == 0
    return capsys.readouterr().out


def test_rows_are_found_by_id_and_by_index(
    outputs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = shown(capsys, outputs[0], "--id", "row-3", "--rows", "7")
    assert [line for line in said.splitlines() if line.startswith("row")] == [
        "row 3 (id 'row-3')",
        "row 7 (id 'row-7')",
    ]
    assert "  completion: prompt number 3" in said


def test_failed_rows_are_shown_with_their_message(
    outputs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for out in outputs:
        said = shown(capsys, out, "--failed")
        assert said.startswith("row 30 (id '30')")
        assert "error_code: invalid_json" in said


def test_rows_are_found_by_what_they_hold(
    outputs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = shown(capsys, outputs[0], "--where", "tag=t3", "--json", "-n", "99")
    rows = [json.loads(line) for line in found.splitlines()]
    assert [row["index"] for row in rows] == [3, 10, 17, 24]
    assert rows[0].keys() >= {"latency_s", "run_id", "tag"}
    found = shown(capsys, outputs[0], "--where", "tag=t3", "--where", "index>9", "--json")
    assert len(found.splitlines()) == 3
    found = shown(capsys, outputs[0], "--where", "completion~number 2\\d", "--json", "-n", "99")
    assert len(found.splitlines()) == 10


def test_two_outputs_stand_side_by_side(
    outputs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = shown(capsys, outputs[0], "--rows", "3", "--beside", outputs[1])
    assert "  = prompt: prompt number 3" in said
    assert "| promp" in said
    assert "finish_reason" in said


def test_what_is_not_there_ends_with_a_word(
    outputs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", outputs[0], "--id", "nobody"]) == 1
    assert main(["inspect", outputs[0], "--where", "nope=1"]) == 2
    assert main(["inspect", outputs[0], "--where", "nope"]) == 2
    assert main(["inspect", "none.parquet"]) == 66
    said = capsys.readouterr().err
    assert "no such row" in said
    assert "it has index, sample, id" in said
    assert "write COLUMN=VALUE" in said


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("a=1", 1, True), ("a=1", 1.0, True), ("a!=1", 2, True), ("a<10", 9, True),
        ("a=x", "x", True), ("a=x", None, False), ("a!=x", None, True), ("a=", None, True),
        ("a>1", None, False), ("a~^b", "abc", False), ("a~b", "abc", True), ("a=True", True, True),
        ("a='x y'", "x y", True), ("a<=3", 3, True), ("a>=4", 3, False), ("a!=", None, False),
    ],
)  # fmt: skip
def test_a_condition_means_what_it_says(text: str, value: object, holds: bool) -> None:
    assert Condition.parse(text).holds(value) is holds
