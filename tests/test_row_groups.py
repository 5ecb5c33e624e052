"""Row groups that several threads encode: the file is the one that a single writer makes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.job.output.output import _row_groups
from batchgen.job.parquet.row_groups import RowGroupWriter
from batchgen.job.parquet.thrift import decoded, encoded
from batchgen.job.rows import OutputRow
from batchgen.job.schema import MAX_ROW_GROUP_ROWS, output_schema, output_writer, record_batch

KEPT = (("label", pa.string()), ("score", pa.float32()), ("tags", pa.list_(pa.bool_())))


def rows(start: int, count: int) -> pa.Table:
    made = [
        OutputRow(
            index=index, sample=0, id=f"row {index}", status="ok", prompt=f"{index} " * 40,
            completion="long " * (index % 300), prompt_tokens=index, run_id="run",
            kept={"label": "ab"[index % 2], "score": index / 3, "tags": [True, None, False]},
            logprobs=[-1.5, -0.25] if index % 3 else None,
        )
        for index in range(start, start + count)
    ]  # fmt: skip
    schema = output_schema(KEPT, optional=["logprobs"])
    return pa.Table.from_batches([record_batch(made, schema)])


def written(tables: list[pa.Table], schema: pa.Schema, folder: Path) -> tuple[bytes, bytes]:
    """By several threads, and by Arrow's writer alone."""
    metadata = {"batchgen.manifest": "{}"}
    with RowGroupWriter(folder / "ours.parquet", schema, metadata) as ours:
        for table in tables:
            ours.write(table)
    with output_writer(folder / "arrows.parquet", schema, metadata=metadata) as arrows:
        for table in tables:
            arrows.write_table(table, row_group_size=max(1, table.num_rows))
    return tuple((folder / f"{name}.parquet").read_bytes() for name in ("ours", "arrows"))  # type: ignore[return-value]


@pytest.mark.parametrize("sizes", [[], [1], [3000, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_the_file_is_byte_for_byte_that_of_one_writer(tmp_path: Path, sizes: list[int]) -> None:
    tables = [rows(100_000 * place, size) for place, size in enumerate(sizes)]
    ours, arrows = written(tables, rows(0, 1).schema, tmp_path)
    assert ours == arrows


def test_pages_of_many_sizes_are_found_where_the_indexes_say(tmp_path: Path) -> None:
    table = pa.concat_tables([rows(0, 30_000), rows(30_000, 30_000)])
    ours, arrows = written([table, table.slice(0, 21_000), table], table.schema, tmp_path)
    assert ours == arrows
    read = pq.read_table(tmp_path / "ours.parquet", filters=[("index", "==", 20_500)])
    assert read.num_rows == 3


def test_what_an_encoder_meets_ends_the_writing(tmp_path: Path) -> None:
    schema = rows(0, 1).schema
    with (
        pytest.raises(ValueError, match="schema"),
        RowGroupWriter(tmp_path / "out.parquet", schema, {}) as writer,
    ):
        writer.write(pa.table({"another": [1]}))


STRUCTS = st.recursive(
    st.dictionaries(
        st.integers(1, 300),
        st.one_of(
            st.tuples(st.sampled_from([1, 2]), st.none()),
            st.tuples(st.just(3), st.binary(min_size=1, max_size=1)),
            st.tuples(st.sampled_from([4, 5, 6]), st.integers(-(1 << 63), (1 << 63) - 1)),
            st.tuples(st.just(7), st.binary(min_size=8, max_size=8)),
            st.tuples(st.just(8), st.binary()),
            st.tuples(st.just(9), st.tuples(st.just(6), st.lists(st.integers(-5, 1 << 40)))),
            st.tuples(
                st.just(9),
                st.tuples(st.just(2), st.lists(st.sampled_from([b"\x01", b"\x02"]), max_size=40)),
            ),
        ),
    ),
    lambda inner: st.dictionaries(
        st.integers(1, 300),
        st.one_of(
            st.tuples(st.just(12), inner),
            st.tuples(
                st.just(9),
                st.tuples(
                    st.just(12),
                    st.builds(list.__mul__, st.lists(inner, max_size=2), st.integers(0, 10)),
                ),
            ),
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(STRUCTS)
def test_a_struct_comes_back_from_its_bytes(struct: dict[int, tuple[int, object]]) -> None:
    assert decoded(encoded(struct)) == struct


@pytest.mark.parametrize("data", [b"", b"\x16", b"\x1b\x00\x00", b"\x18\x7fshort"])
def test_bytes_that_are_no_struct_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="Thrift"):
        decoded(data)


def test_a_row_group_is_bounded_in_rows_and_in_bytes() -> None:
    text = pa.array(["x" * 40_000] * 1000)
    long = [pa.table({"index": pa.array(range(i, i + 1000)), "prompt": text}) for i in (0, 1000)]
    short = pa.table({"index": pa.array(range(2000, 202_000)), "prompt": pa.nulls(200_000, "str")})
    groups = list(_row_groups([*long, short]))
    assert pa.concat_tables(groups)["index"].to_pylist() == list(range(202_000))
    assert max(group.num_rows for group in groups) == MAX_ROW_GROUP_ROWS
    assert max(group.nbytes for group in groups) <= 16 << 20
