"""Types of kept columns where sources differ, and values that Python cannot hold."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import ErrorCode, InvalidDataError
from batchgen.job.input.reader import Reader
from batchgen.job.spec import InputSpec
from batchgen.job.stored_types import array_of

WORD = pa.array(["w"])


def write(tmp_path: Path, name: str, column: Any) -> str:
    path = tmp_path / name
    pq.write_table(pa.table({"prompt": ["p"] * len(column), "x": column}), path)
    return str(path)


@pytest.mark.parametrize(
    ("one", "two", "kind", "values"),
    [
        (pa.array([1], pa.int32()), pa.array([2]), pa.int64(), [1, 2]),
        (pa.array([1]), pa.array([0.5]), pa.float64(), [1, 0.5]),
        (pa.nulls(1), pa.array([2]), pa.int64(), [None, 2]),
        (pa.array([1]), pa.nulls(1), pa.int64(), [1, None]),
        (pa.nulls(1), pa.nulls(1), pa.string(), [None, None]),
        (WORD, WORD.dictionary_encode(), pa.string(), ["w", "w"]),
        (WORD.dictionary_encode(), WORD.cast(pa.large_string()), pa.large_string(), ["w", "w"]),
        (pa.array([1], pa.uint64()), pa.array([2], pa.uint8()), pa.uint64(), [1, 2]),
    ],
)
def test_types_of_two_files_become_one_that_holds_both(
    tmp_path: Path, one: Any, two: Any, kind: pa.DataType, values: list[Any]
) -> None:
    paths = write(tmp_path, "1.parquet", one), write(tmp_path, "2.parquet", two)
    reader = Reader(InputSpec(paths))
    assert reader.kept_schema == [("x", kind)]
    assert [row.kept["x"] for row in reader] == values


@pytest.mark.parametrize(
    ("column", "finer"),
    [
        (pa.array([43_200], pa.timestamp("us")), pa.timestamp("ns")),
        (pa.array([43_200], pa.timestamp("s", "UTC")), pa.timestamp("ns", "UTC")),
        (pa.array([43_200], pa.time64("us")), pa.time64("ns")),
        (pa.array([43_200], pa.duration("ms")), pa.duration("ns")),
        (pa.array([Decimal("1.25")], pa.decimal128(5, 2)), pa.float64()),
    ],
    ids=lambda given: str(given.type if isinstance(given, pa.Array) else given),
)
@pytest.mark.parametrize("depth", ["flat", "list", "struct"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_value_outlives_that_another_file_has_its_column_in_another_type(
    tmp_path: Path, column: pa.Array, finer: pa.DataType, depth: str, turned: bool
) -> None:
    one, two = _inside(column, depth), _inside(column.cast(finer), depth)
    files = [write(tmp_path, "1.parquet", one), write(tmp_path, "2.parquet", two)]
    reader = Reader(InputSpec(tuple(reversed(files) if turned else files)))
    ((_, found),) = reader.kept_schema
    values = array_of([row.kept["x"] for row in reader], found)
    assert found == two.type
    assert values[0] == values[1] == two[0]


def _inside(column: pa.Array, depth: str) -> pa.Array:
    if depth == "list":
        return pa.ListArray.from_arrays([0, 1], column)
    return column if depth == "flat" else pa.StructArray.from_arrays([column], ["a"])


def test_a_value_that_the_type_of_both_files_cannot_hold_is_an_invalid_row(tmp_path: Path) -> None:
    """A number of 19 digits beside another file's floats: it was null, without a word."""
    big = 1234567890123456789
    paths = (
        write(tmp_path, "1.parquet", pa.array([big, 5])),
        write(tmp_path, "2.parquet", pa.array([0.5])),
    )
    first, second, third = Reader(InputSpec(paths))
    assert first.error is not None
    assert first.error.code is ErrorCode.INVALID_ROW
    assert f"is double, as other inputs have it, and cannot hold {big}" in first.error.message
    assert [row.error for row in (second, third)] == [None, None]
    assert [row.error for row in Reader(InputSpec(paths, keep_columns="none"))] == [None] * 3


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (pa.array([1]), pa.array(["1"])),
        (pa.array([2**63], pa.uint64()), pa.array([-1])),
        (pa.array([True]), pa.array([1])),
    ],
)
def test_types_that_no_type_holds_are_refused(tmp_path: Path, one: Any, two: Any) -> None:
    paths = write(tmp_path, "1.parquet", one), write(tmp_path, "2.parquet", two)
    with pytest.raises(InvalidDataError, match=f"'x' is {two.type} in"):
        Reader(InputSpec(paths))
    assert len(list(Reader(InputSpec(paths, keep_columns="none")))) == 2


@pytest.mark.parametrize(
    "far",
    [
        pa.array([10**8, 0], pa.date32()),
        pa.array([10**15, 0], pa.timestamp("ms")),
        pa.array([10**15, 0], pa.timestamp("ms", tz="UTC")),
        pa.array([[10**8], []], pa.list_(pa.date32())),
    ],
    ids=lambda column: str(column.type),
)
def test_a_date_past_the_year_9999_is_an_invalid_row(tmp_path: Path, far: pa.Array) -> None:
    path = write(tmp_path, "a.parquet", far)
    first, second = Reader(InputSpec((path,)))
    assert first.error is not None
    assert first.error.code is ErrorCode.INVALID_ROW
    assert "'x' holds a date or time that is out of range" in first.error.message
    assert second.error is None
    assert [row.error for row in Reader(InputSpec((path,), keep_columns="none"))] == [None, None]


def test_a_time_zone_that_this_machine_lacks_harms_nothing(tmp_path: Path) -> None:
    kind = pa.timestamp("us", tz="Mars/Olympus")
    reader = Reader(InputSpec((write(tmp_path, "a.parquet", pa.array([1, None], kind)),)))
    values = [row.kept["x"] for row in reader]
    assert pa.array(values, kind).cast(pa.int64()).to_pylist() == [1, None]


def test_a_view_of_strings_is_a_prompt(tmp_path: Path) -> None:
    path = write(tmp_path, "a.parquet", WORD.cast(pa.string_view()))
    (row,) = Reader(InputSpec((path,), prompt_column="x", keep_columns="none"))
    assert row.prompt == "w"


def test_values_that_cannot_be_read_have_one_digest_in_every_process(tmp_path: Path) -> None:
    bad = pa.array([b"\xff", b"ok"]).view(pa.string())
    reader = Reader(InputSpec((write(tmp_path, "a.parquet", bad),)))
    list(reader)
    assert reader.digest.hexdigest() == "63cc3193874f4c55c73e14b3c1d5589d"


def test_a_column_that_is_asked_for_and_nowhere_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = tmp_path / "b.jsonl"
    lines.write_text('{"prompt": "p", "y": null}\n')
    paths = write(tmp_path, "a.parquet", WORD), str(lines)
    list(Reader(InputSpec(paths, keep_columns="x,y,lable")))
    assert [record.getMessage() for record in caplog.records] == [
        "--keep-columns lable: no source has it so far; it may be all null"
    ]


def test_a_row_without_a_prompt_is_told_what_it_has(tmp_path: Path) -> None:
    lines = tmp_path / "b.jsonl"
    lines.write_text('{"prompt": null, "question": "Why?", "answer": "So."}\n')
    (row,) = Reader(InputSpec((str(lines),)))
    assert row.error is not None
    assert row.error.message.endswith('the row has ["question", "answer"]')


@pytest.mark.parametrize("flags", [{}, {"keep_columns": "row=id"}, {"id_column": "id,x"}])
def test_an_integer_as_a_warehouse_writes_it_is_an_id(
    tmp_path: Path, flags: dict[str, Any]
) -> None:
    """Snowflake's and Oracle's NUMBER(38, 0), Spark's decimal(20, 0)."""
    ids = pa.array([Decimal(7), Decimal("12345678901234567890123"), None], pa.decimal128(38, 0))
    table = pa.table({"prompt": ["a", "b", "c"], "id": ids, "x": ["u", "v", "w"]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = list(Reader(InputSpec((str(tmp_path / "a.parquet"),), **flags)))
    if "id_column" in flags:
        assert [row.id for row in rows] == ["7-u", "12345678901234567890123-v", None]
    else:
        assert [row.id for row in rows] == ["7", "12345678901234567890123", None]
    assert [row.kept.get("row") for row in rows][:1] == ([7] if "keep_columns" in flags else [None])


def test_a_decimal_with_a_fraction_is_no_id(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"], "id": pa.array([Decimal("1.50")], pa.decimal128(9, 2))})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidDataError, match="an id is a string or an integer"):
        Reader(InputSpec((str(tmp_path / "a.parquet"),)))
