"""`batchgen diff OUT --gold COLUMNS`: how many answers are right, and which are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from batchgen.cli.diff import diff
from batchgen.errors import UsageError


def output(path: Path, rows: list[tuple[str | None, dict[str, Any]]]) -> Path:
    """An output with these completions and kept columns."""
    table = [
        {"index": n, "sample": 0, "id": f"r{n}", "completion": completion, **kept}
        for n, (completion, kept) in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(table), path)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(diff, [str(argument) for argument in arguments])


GOLD = {"label": "refund", "order": "0048", "amount": "49.90"}


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ('{"label": "refund", "order": "0048", "amount": 49.9}', {"label", "order", "amount"}),
        (
            '{"label": "refund", "order": "0048", "amount": 49.90, "more": 1}',
            {"label", "order", "amount"},
        ),
        ('{"label": "billing", "order": "48", "amount": 49}', set()),
        ('{"label": "refund", "order": 48, "amount": true}', {"label"}),
        ('{"label": "refund"}', {"label"}),
        ('{"label": "refund", "order', set()),
        ("refund", set()),
        (None, set()),
    ],
)
def test_an_answer_is_compared_field_by_field(
    tmp_path: Path, completion: str | None, right: set[str]
) -> None:
    path = output(tmp_path / "out.parquet", [(completion, GOLD), ("{}", GOLD)])
    found = json.loads(call(path, "--gold", "label,order,amount", "--json").stdout)
    assert {name for name, count in found["fields"].items() if count} == right
    assert (found["rows"], found["right"]) == (2, int(len(right) == len(GOLD)))


def test_null_is_an_answer_and_a_missing_field_is_none(tmp_path: Path) -> None:
    kept = {"order": None, "n": 3}
    rows = [('{"order": null, "n": 3}', kept), ('{"n": 3}', kept)]
    path = output(
        tmp_path / "out.parquet", [*rows, ('{"order": "x", "n": 3}', {"order": "x", "n": 3})]
    )
    found = json.loads(call(path, "--gold", "order,n", "--json").stdout)
    assert (found["right"], found["fields"]) == (2, {"order": 2, "n": 3})


def test_one_column_may_stand_against_the_whole_text(tmp_path: Path) -> None:
    rows = [(" yes\n", {"gold": "yes"}), ("no", {"gold": "yes"}), ("true", {"gold": "true"})]
    path = output(tmp_path / "out.parquet", rows)
    result = call(path, "--gold", "gold", "--on", "id")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "2 of 3 rows wholly right (66.7%)",
        "  gold: 2 right",
        "id r1 sample 0:",
        "  gold:",
        '    - "yes"',
        '    + "no"',
    ]


def test_the_exit_code_says_whether_enough_is_right(tmp_path: Path) -> None:
    path = output(tmp_path / "out.parquet", [("a", {"g": "a"}), ("b", {"g": "a"})])
    assert call(path, "--gold", "g", "--at-least", 50).exit_code == 0
    assert call(path, "--gold", "g", "--at-least", 51).exit_code == 1
    assert call(output(tmp_path / "all.parquet", [("a", {"g": "a"})]), "--gold", "g").exit_code == 0


def test_a_column_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = output(tmp_path / "out.parquet", [("a", {"g": "a"})])
    result = call(path, "--gold", "label")
    assert isinstance(result.exception, UsageError)
    assert "'label' is not in the output" in str(result.exception)


def test_it_takes_a_second_output_or_gold_columns(tmp_path: Path) -> None:
    path = output(tmp_path / "out.parquet", [("a", {"g": "a"})])
    assert call(path).exit_code == 2
    assert call(path, path, "--gold", "g").exit_code == 2
    assert call(path, path).exit_code == 0
