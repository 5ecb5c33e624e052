"""Parquet and datasets: streamed by batch, only what is needed, every kept column with its type."""

from __future__ import annotations

import datetime as dt
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, InputUnreadableError, InvalidDataError, UsageError
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.input import parquet_rows
from batchgen.job.input.arrow_rows import find_columns
from batchgen.job.input.reader import Reader
from batchgen.job.input.source import Source, SourceKind
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec

PROMPTS = {"prompt": ["a", "b", None]}


def write(tmp_path: Path, columns: dict[str, Any] | pa.Table, name: str = "a.parquet") -> str:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    path = tmp_path / name
    pq.write_table(table, path)
    return str(path)


def read(path: str, **spec: Any) -> list[InputRow]:
    return list(Reader(InputSpec((path,), **spec)))


def test_rows_and_nulls_are_read(tmp_path: Path) -> None:
    rows = read(write(tmp_path, {**PROMPTS, "id": [1, None, 3]}))
    assert [(r.id, r.prompt, r.error and r.error.code) for r in rows] == [
        ("1", "a", None),
        (None, "b", None),
        ("3", None, ErrorCode.MISSING_PROMPT),
    ]
    assert rows[2].origin.endswith("a.parquet:3")


def test_parameters_come_from_their_columns_and_from_params(tmp_path: Path) -> None:
    struct = [{"stop": ["x"], "n": None}, None, {"stop": None, "n": 2}]
    path = write(
        tmp_path,
        {
            "prompt": ["a", "b", "c"],
            "temperature": [0.5, None, None],
            "max_tokens": pa.array([7.0, None, 9.0]),
            "params": struct,
        },
    )
    first, second, third = (row.params for row in read(path))
    assert (first.temperature, first.max_tokens, first.stop) == (0.5, 7, ("x",))
    assert (second.temperature, second.max_tokens) == (0.0, 256)
    assert (third.max_tokens, third.n) == (9, 2)


def test_decimals_are_numbers_where_they_are_settings_and_keep_their_digits_elsewhere(
    tmp_path: Path,
) -> None:
    cents, count = pa.decimal128(3, 2), pa.decimal128(38, 0)
    table = pa.table(
        {
            "prompt": ["a", "b"],
            "temperature": pa.array([Decimal("0.70"), None], cents),
            "params": pa.array([None, {"n": Decimal(2)}], pa.struct({"n": count})),
            "price": pa.array([Decimal("1.50"), Decimal("2.00")], cents),
        }
    )
    path = write(tmp_path, table)
    one, two = read(path)
    assert (one.params.temperature, two.params.n) == (0.7, 2)
    assert one.kept == {"price": Decimal("1.50")}
    template = tmp_path / "ask.j2"
    template.write_text("{{ price }}")
    (found, *_) = read(path, template=str(template))
    assert found.columns == {"price": Decimal("1.50")}


def test_params_may_be_json_text(tmp_path: Path) -> None:
    rows = read(write(tmp_path, {**PROMPTS, "params": ['{"n": 2}', "", "nonsense"]}))
    assert [row.params.n for row in rows[:2]] == [2, 1]
    assert rows[2].error is not None


def test_messages_are_lists_of_structs_without_their_padding(tmp_path: Path) -> None:
    messages = [
        [{"role": "user", "content": "hi", "name": None}],
        [
            {"role": "user", "content": "a", "name": "tom"},
            {"role": "assistant", "content": "b", "name": None},
        ],
    ]
    rows = read(write(tmp_path, {"messages": messages}))
    assert rows[0].messages == [{"role": "user", "content": "hi"}]
    assert rows[1].messages == [
        {"role": "user", "content": "a", "name": "tom"},
        {"role": "assistant", "content": "b"},
    ]


def test_token_ids_are_read_in_any_integer_width(tmp_path: Path) -> None:
    ids = pa.array([[1, 2], []], pa.list_(pa.int16()))
    rows = read(write(tmp_path, {"prompt_token_ids": ids}))
    assert rows[0].prompt_token_ids == [1, 2]
    assert rows[1].error is not None
    assert rows[1].error.code is ErrorCode.EMPTY_PROMPT


KEPT = {
    "i8": pa.array([1, None], pa.int8()),
    "u64": pa.array([2**64 - 1, None], pa.uint64()),
    "f32": pa.array([0.5, None], pa.float32()),
    "flag": pa.array([True, None]),
    "raw": pa.array([b"\xff\x00", None]),
    "day": pa.array([dt.date(2024, 2, 29), None]),
    "micros": pa.array([1, None], pa.timestamp("us", tz="UTC")),
    "nanos": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", tz="Europe/Oslo")),
    "span": pa.array([123_456_789_123, None], pa.duration("ns")),
    "time": pa.array([1_001, None], pa.time64("ns")),
    "money": pa.array([Decimal("12.30"), None], pa.decimal128(10, 2)),
    "list": pa.array([[1, None], None], pa.list_(pa.int32())),
    "struct": pa.array([{"a": 1, "b": ["x"]}, None]),
    "word": pa.array(["x", None]).dictionary_encode(),
    "large": pa.array(["x", None], pa.large_string()),
}


@pytest.mark.parametrize("name", list(KEPT))
def test_a_kept_column_comes_out_as_it_went_in(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, {"prompt": ["a", "b"], "x": KEPT[name]})
    reader = Reader(InputSpec((path,)))
    rows = list(reader)
    (kept,) = reader.kept_schema
    assert kept == ("x", pq.read_schema(path).field("x").type)
    made = pa.array([row.kept["x"] for row in rows], type=kept[1])
    assert made.equals(pq.read_table(path).column("x").combine_chunks())


def test_the_last_day_of_spark_is_not_one_of_1816(tmp_path: Path) -> None:
    days = [dt.datetime(9999, 12, 31), dt.datetime(2024, 5, 1, 12, 0, 0, 123456), None]
    table = pa.table({**PROMPTS, "x": pa.array(days, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    reader = Reader(InputSpec((str(tmp_path / "a.parquet"),)))
    assert [row.kept["x"] for row in reader] == days
    assert reader.kept_schema == [("x", pa.timestamp("us"))]


def test_a_null_typed_column_is_kept_as_strings(tmp_path: Path) -> None:
    reader = Reader(InputSpec((write(tmp_path, {**PROMPTS, "x": pa.nulls(3)}),)))
    assert reader.kept_schema == [("x", pa.string())]


def test_only_needed_columns_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    real = pq.ParquetFile.iter_batches

    def spy(self: Any, batch_size: int, columns: list[str], **rest: Any) -> Any:
        asked.append(columns)
        return real(self, batch_size, columns=columns, **rest)

    monkeypatch.setattr(parquet_rows.pq.ParquetFile, "iter_batches", spy)
    path = write(tmp_path, {"big": [b"x"] * 3, **PROMPTS, "seed": [1, 2, 3], "b": [1, 2, 3]})
    assert len(read(path, keep_columns="b")) == 3
    assert asked == [["prompt", "seed", "b"]]


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"prompt": [1, 2]}, "'prompt' holds int64, not strings"),
        ({"prompt": [b"a"]}, "'prompt' holds binary"),
        ({"messages": [5]}, "'messages' holds int64"),
        ({"prompt_token_ids": [[0.5]]}, "'prompt_token_ids' holds"),
        ({"text": ["a"]}, "none of the columns prompt, messages, prompt_token_ids; it has text"),
    ],
)
def test_a_wrong_prompt_column_ends_with_65_before_any_row(
    tmp_path: Path, columns: dict[str, Any], word: str
) -> None:
    with pytest.raises(InvalidDataError, match=word) as caught:
        Reader(InputSpec((write(tmp_path, columns),)))
    assert caught.value.exit_code == 65


def test_a_damaged_file_ends_with_66_and_says_where(tmp_path: Path) -> None:
    path = Path(write(tmp_path, {"prompt": [f"{n * 7919}" * 9 for n in range(20_000)]}))
    data = path.read_bytes()
    middle = len(data) // 2
    for bad in (data[:-100], b"", b"PAR1", data[:middle]):
        path.write_bytes(bad)
        with pytest.raises(InputUnreadableError, match=r"a\.parquet") as caught:
            read(str(path))
        assert caught.value.exit_code == 66
    path.write_bytes(data[:middle] + bytes(9000) + data[middle + 9000 :])
    with pytest.raises(InputUnreadableError, match=r"damaged after row \d+"):
        read(str(path))


def test_text_that_is_not_utf8_is_an_invalid_row(tmp_path: Path) -> None:
    bad = pa.array([b"ok", b"\xff\xfe", b"ok"]).view(pa.string())
    rows = read(write(tmp_path, {"prompt": bad}))
    assert [row.error and row.error.code for row in rows] == [None, ErrorCode.INVALID_ROW, None]


def test_two_columns_of_one_name_are_refused_where_one_is_needed(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"], [1], [2]], names=["prompt", "prompt", "x", "x"])
    with pytest.raises(InvalidDataError, match="two columns 'prompt'"):
        Reader(InputSpec((write(tmp_path, table),)))
    path = write(tmp_path, pa.table([["a"], [1], [2]], names=["prompt", "x", "x"]))
    assert len(read(path, keep_columns="none")) == 1


def test_a_kept_column_with_an_output_name_is_a_usage_error(tmp_path: Path) -> None:
    path = write(tmp_path, {**PROMPTS, "completion": ["x"] * 3})
    with pytest.raises(UsageError, match="'completion'") as caught:
        Reader(InputSpec((path,)))
    assert caught.value.exit_code == 2
    assert len(read(path, keep_columns="none")) == 3


def test_jsonl_beside_parquet_takes_the_parquet_type(tmp_path: Path) -> None:
    one = write(tmp_path, {"prompt": ["a"], "x": [1]})
    two = tmp_path / "b.jsonl"
    two.write_text('{"prompt": "b", "x": "5"}\n{"prompt": "c", "x": "five"}\n')
    for inputs in ((one, str(two)), (str(two), one)):
        reader = Reader(InputSpec(inputs))
        assert reader.kept_schema == [("x", pa.int64())]
        rows = sorted(reader, key=lambda row: row.prompt or "z")
        assert [row.kept["x"] for row in rows] == [1, 5, None]
        assert rows[2].error is not None


def test_memory_does_not_follow_the_row_group(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": [f"{n}-" + "word " * 40 for n in range(50_000)]})
    before = pa.total_allocated_bytes()
    most = 0
    for row in Reader(InputSpec((path,))):
        if row.index % 5000 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8_000_000


def test_a_saved_dataset_is_read_as_its_parquet_would_be(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {
        "id": ["x", "y"],
        "prompt": ["a", "b"],
        "x": [1, 2],
        "params": [{"n": 2}, {"n": None}],
    }
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "saved"))
    split = datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)})
    split.save_to_disk(str(tmp_path / "splits"))
    expected = read(write(tmp_path, columns))
    for folder in ("saved", "splits"):
        reader = Reader(InputSpec((str(tmp_path / folder),)))
        assert reader.kept_schema == [("x", pa.int64())]
        for row, other in zip(reader, expected, strict=True):
            assert (row.id, row.prompt, row.params, row.kept) == (
                other.id,
                other.prompt,
                other.params,
                other.kept,
            )
    with pytest.raises(InputUnreadableError, match="no split 'test'; it has train"):
        Reader(InputSpec((str(tmp_path / "splits"),), split="test"))


def test_of_a_saved_dataset_with_several_splits_it_is_said_which_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datasets = pytest.importorskip("datasets")
    names = ("train", "test", "held")
    splits = {name: datasets.Dataset.from_dict({"prompt": [name]}) for name in names}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "splits"))
    for split, others in (("train", "test, held"), ("test", "train, held")):
        caplog.clear()
        (row,) = Reader(InputSpec((str(tmp_path / "splits"),), split=split))
        assert row.prompt == split
        (told,) = [record.getMessage() for record in caplog.records]
        assert f"its split {split!r} is read, and not {others}: name one with --split" in told


def test_messages_may_be_maps_as_spark_writes_them(tmp_path: Path) -> None:
    turns = [[("role", "user"), ("content", "Hi")], [("role", "tool"), ("content", "3")]]
    kind = pa.list_(pa.map_(pa.string(), pa.string()))
    (row,) = read(write(tmp_path, {"messages": pa.array([turns], kind)}))
    expected = [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "3"}]
    assert (row.error, row.messages) == (None, expected)


def no_hub(*_: Any, **__: Any) -> Any:
    raise ConnectionError("no route")


def test_a_hub_dataset_is_known_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(self: Any, name: str, timeout: float) -> Any:
        return SimpleNamespace(sha=f"commit of {name}")

    source = Source("org/name:small", SourceKind.HUB)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    assert source.identity()["commit"] == "commit of org/name"
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", no_hub)
    assert source.identity()["commit"] is None


def test_a_hub_id_is_streamed_by_split_and_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load(name: str, config: str | None, **rest: Any) -> Any:
        asked.append((name, config, rest))
        return datasets.Dataset.from_dict({"prompt": ["a", "b"], "x": [1, 2]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", no_hub)
    rows = read("org/name:small", split="test")
    assert asked == [("org/name", "small", {"split": "test", "streaming": True})]
    assert [(row.prompt, row.kept, row.origin) for row in rows] == [
        ("a", {"x": 1}, "org/name:small:1"),
        ("b", {"x": 2}, "org/name:small:2"),
    ]


def test_a_hub_that_cannot_be_reached_ends_with_66(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", no_hub)
    with pytest.raises(InputUnreadableError, match="org/name") as caught:
        read("org/name")
    assert caught.value.exit_code == 66


@pytest.mark.parametrize("keep", ["all", "none", "x"])
def test_integers_of_128_bits_are_left_out_and_the_other_columns_read(
    tmp_path: Path, keep: str, caplog: pytest.LogCaptureFixture
) -> None:
    polars = pytest.importorskip("polars")
    path = tmp_path / "a.parquet"
    columns = {"prompt": ["a", "b"], "big": [2**100, 1], "x": [1, 2]}
    polars.DataFrame(columns, schema_overrides={"big": polars.Int128}).write_parquet(path)
    rows = read(str(path), keep_columns=keep)
    assert [row.prompt for row in rows] == ["a", "b"]
    assert rows[1].kept == ({} if keep == "none" else {"x": 2})
    assert ("'big'" in caplog.text) == (keep == "all")
    with pytest.raises(InvalidDataError, match="'big' holds integers of 128 bits"):
        read(str(path), keep_columns="big")


def test_columns_of_a_wide_table_take_time_in_proportion_to_their_number() -> None:
    """Looked up in lists they took 10 s of these."""
    spec, kept = InputSpec(("x",)), KeptColumns("all")
    schema = pa.schema([("prompt", pa.string()), *((f"c{n}", pa.int64()) for n in range(50_000))])
    begin = time.process_time()
    columns = find_columns(schema, "x", spec, RowParser(spec, SamplingParams(), kept), kept)
    assert time.process_time() - begin < 3
    assert len(columns.names) == 50_001
    assert [name for name, _ in kept.schema] == schema.names[1:]
