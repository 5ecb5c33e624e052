"""Columns that stand in the names of folders: a partitioned data set loses none of its columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from batchgen.job.input.folder_keys import folder_keys
from batchgen.job.input.reader import Reader
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec

FRAME = pd.DataFrame(
    {
        "id": ["a", "b", "c"],
        "prompt": ["one", "two", "three"],
        "lang": ["de", "en", None],
        "at": ["12:30", "x/y", "12:30"],
    }
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FRAME.to_parquet(tmp_path / "data", partition_cols=["lang", "at"])
    return tmp_path / "data"


def rows_of(spec: InputSpec) -> dict[str | None, InputRow]:
    rows = {row.id: row for row in Reader(spec)}
    assert [row.error for row in rows.values()] == [None] * len(rows)
    return rows


@pytest.mark.parametrize("pattern", ["**/*.parquet", "*/*/*.parquet", "lang=*/at=*/*.parquet"])
def test_what_a_frame_was_partitioned_by_is_kept(folder: Path, pattern: str) -> None:
    spec = InputSpec((f"{folder}/{pattern}",))
    assert Reader(spec).kept_schema == [("lang", pa.string()), ("at", pa.string())]
    assert {name: row.kept for name, row in rows_of(spec).items()} == {
        "a": {"lang": "de", "at": "12:30"},
        "b": {"lang": "en", "at": "x/y"},
        "c": {"lang": None, "at": "12:30"},
    }


def test_a_template_reads_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.j2").write_text("{{ at }}: {{ prompt }}")
    spec = InputSpec((f"{folder}/**/*.parquet",), template=str(tmp_path / "p.j2"))
    columns = {name: row.columns for name, row in rows_of(spec).items()}
    assert columns["b"] is not None
    assert (columns["b"]["at"], columns["b"]["prompt"]) == ("x/y", "two")


def test_only_what_is_asked_for_is_kept(folder: Path) -> None:
    glob = f"{folder}/**/*.parquet"
    one = rows_of(InputSpec((glob,), keep_columns="at"))
    assert {name: row.kept for name, row in one.items()} == {
        "a": {"at": "12:30"},
        "b": {"at": "x/y"},
        "c": {"at": "12:30"},
    }
    none = rows_of(InputSpec((glob,), keep_columns="none"))
    assert [row.kept for row in none.values()] == [{}, {}, {}]


def test_a_column_of_the_file_wins(tmp_path: Path) -> None:
    inside = tmp_path / "lang=xx"
    inside.mkdir()
    FRAME.to_parquet(inside / "part.parquet")
    rows = rows_of(InputSpec((f"{tmp_path}/*/*.parquet",)))
    assert [row.kept["lang"] for row in rows.values()] == ["de", "en", None]


@pytest.mark.parametrize(
    ("name", "argument", "keys"),
    [
        ("s3://b/t/day=1/a.parquet", "s3://b/t/*/*.parquet", (("day", "1"),)),
        ("d/day=1/a.parquet", "d/day=1/a.parquet", ()),
        ("run=7/d/day=1/a.parquet", "run=7/d/**/*.parquet", (("day", "1"),)),
        ("d/day=1/a.parquet", "d/day=?/*.parquet", (("day", "1"),)),
        ("d/plain/=x/a.parquet", "d/**/*.parquet", ()),
    ],
)
def test_folders_that_a_pattern_found_are_columns_and_those_that_it_names_are_not(
    name: str, argument: str, keys: tuple[tuple[str, str], ...]
) -> None:
    assert folder_keys(name, argument) == keys
