"""The output's columns are what INTERFACE says, and three libraries read them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ledger_tools import make_row, open_ledger

from batchgen.job.hf_features import huggingface_metadata
from batchgen.job.rows import OutputRow
from batchgen.job.schema import (
    BASE_SCHEMA,
    MAX_ROW_GROUP_ROWS,
    OPTIONAL_FIELDS,
    late_columns,
    output_schema,
    record_batch,
)
from batchgen.job.storage.part import Columns

INTERFACE = """
index int64 · sample int32 · id string · status string · prompt string? · completion string? ·
reasoning string? · finish_reason string? · stop_reason string? · error_code string? ·
error_message string? · prompt_tokens int32? · completion_tokens int32? · cached_tokens int32? ·
queue_s double? · prefill_s double? · ttft_s double? · decode_s double? · tpot_s double? ·
latency_s double? · preemptions int32 · attempt int32 · seed int64? ·
started_at timestamp[us, tz=UTC]? · finished_at timestamp[us, tz=UTC]? · run_id string
"""


def test_the_base_columns_are_those_of_the_interface_in_its_order() -> None:
    declared = [re.split(r"\s+", item.strip(), maxsplit=1) for item in INTERFACE.split("·")]
    assert [[f.name, f"{f.type}{'?' * f.nullable}"] for f in BASE_SCHEMA] == declared


def test_output_rows_have_every_column() -> None:
    names = set(OutputRow.__dataclass_fields__) - {"kept", "input_digest"}
    assert names == set(output_schema((), OPTIONAL_FIELDS).names)


def test_kept_columns_come_before_optional_ones_and_are_never_null_typed() -> None:
    schema = output_schema([("k", pa.int8()), ("n", pa.null())], ["l"], ["token_ids"])
    assert schema.names[len(BASE_SCHEMA) :] == ["k", "n", "l", "token_ids"]
    assert not any(pa.types.is_null(kind) for kind in schema.types)


def test_a_batch_holds_the_rows_values() -> None:
    row = make_row(3, token_ids=[1, 2], logprobs=[-0.5], kept={"k": 7}, started_at=1_000_000)
    schema = output_schema([("k", pa.int16())], ["l"], ["token_ids", "logprobs"])
    got = record_batch([row, make_row(4)], schema).to_pylist()
    assert (got[0]["k"], got[0]["l"], got[0]["token_ids"], got[0]["logprobs"]) == (
        7,
        None,
        [1, 2],
        [-0.5],
    )
    assert got[0]["started_at"].timestamp() == 1.0
    assert (got[1]["k"], got[1]["token_ids"], got[1]["id"]) == (None, None, "row-4")


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        (pa.string(), {"a": 1}, '{"a": 1}'),
        (pa.string(), "\ud800x", "?x"),
        (pa.int64(), "seven", None),
        (pa.int8(), 300, None),
        (pa.list_(pa.int64()), "no list", None),
    ],
)
def test_a_value_that_does_not_fit_cannot_end_the_job(
    kind: pa.DataType, value: object, stored: object
) -> None:
    rows = [make_row(0, kept={"k": value}), make_row(1)]
    got = record_batch(rows, output_schema([("k", kind)])).to_pylist()
    assert [row["k"] for row in got] == [stored, None]


def test_late_columns_are_ordered_as_the_input_had_them_however_rows_finish() -> None:
    rows = [make_row(0, kept={"d": 1, "z": "1"}), make_row(5, kept={"a": "1", "z": "2"})]
    assert late_columns(rows, ["d"]) == {"z": (0, 1), "a": (5, 0)}


def test_late_columns_of_different_parts_are_unified(tmp_path: Path) -> None:
    with open_ledger(tmp_path, columns=Columns((("d", pa.int64()),))) as ledger:
        ledger.append([make_row(2, kept={"d": 2, "b": "late"})])
        ledger.flush()
        ledger.append([make_row(0, kept={"d": 0, "z": "first", "y": "second"}), make_row(1)])
        ledger.finalize(3)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names[len(BASE_SCHEMA) :] == ["d", "z", "y", "b"]
    assert table.select(["d", "z", "b"]).to_pylist() == [
        {"d": 0, "z": "first", "b": None},
        {"d": None, "z": None, "b": None},
        {"d": 2, "z": None, "b": "late"},
    ]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    kept = (
        ("s", pa.struct([("x", pa.float32())])),
        ("t", pa.list_(pa.string())),
        ("c", pa.bool_()),
    )
    columns = Columns(kept, frozenset({"token_ids", "logprobs"}))
    facts = {"device": "cpu"}
    with open_ledger(folder, columns=columns, facts=facts) as ledger:
        values = {"s": {"x": 0.5}, "t": ["a"], "c": True}
        ledger.append([make_row(i, token_ids=[i], logprobs=[0.5], kept=values) for i in range(5)])
        ledger.append([make_row(5, status="error", completion=None, error_code="oom")])
        ledger.finalize(6)
    return folder / "out.parquet"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_datasets_loads_the_output_with_its_types(output: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.Dataset.from_parquet(str(output), cache_dir=str(tmp_path))
    assert loaded.num_rows == 6
    assert loaded.features.arrow_schema.field("token_ids").type == pa.list_(pa.int32())
    assert loaded[1]["s"] == {"x": 0.5}
    assert str(loaded.features["started_at"].dtype) == "timestamp[us, tz=UTC]"


def test_pandas_and_duckdb_load_the_output(output: Path) -> None:
    frame = pd.read_parquet(output)
    assert frame["index"].tolist() == list(range(6))
    assert frame["error_code"].tolist()[-1] == "oom"
    counted = duckdb.sql(f"select status, count(*) from '{output}' group by 1 order by 1")
    assert counted.fetchall() == [("error", 1), ("ok", 5)]


def test_the_file_is_compressed_sorted_and_says_where_it_came_from(output: Path) -> None:
    metadata = pq.read_metadata(output)
    group = metadata.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
    assert group.column(0).statistics.max == 5
    assert group.column(0).has_offset_index
    assert [sort.column_index for sort in group.sorting_columns] == [0, 1]
    manifest = json.loads(metadata.metadata[b"batchgen.manifest"])
    assert manifest["fingerprint"]["sampling.temperature"] == 0.7
    assert manifest["facts"] == {"device": "cpu"}
    assert metadata.metadata[b"batchgen.schema_version"] == b"1"


def test_a_type_that_datasets_cannot_name_leaves_its_entry_out() -> None:
    assert huggingface_metadata(output_schema([("m", pa.map_(pa.string(), pa.int8()))])) is None
    assert huggingface_metadata(output_schema([("m", pa.large_string())])) is not None


def test_row_groups_stay_within_their_limit(tmp_path: Path) -> None:
    total = MAX_ROW_GROUP_ROWS + 10
    with open_ledger(tmp_path, checkpoint_every=10**6) as ledger:
        ledger.append([make_row(i, prompt=None, completion="") for i in range(total)])
        ledger.finalize(total)
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [MAX_ROW_GROUP_ROWS, 10]
