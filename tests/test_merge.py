"""The merge: order, duplicates, gaps, and memory that does not grow with disorder."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_tools import (
    expected_keys,
    finish,
    keys_of,
    make_row,
    open_ledger,
    parts_of,
    rows_of,
    temporary_files,
)

from batchgen.cli.merge import merge as merge_command
from batchgen.errors import BatchgenError, StoppedError, UsageError
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.ledger.survey import survey
from batchgen.job.output import merge
from batchgen.job.output.check import MissingRowsError, OutputCheck
from batchgen.job.output.merge import EMIT_BYTES, Merge, peak_bytes, ranked
from batchgen.job.output.merge_rows import aligned
from batchgen.job.rows import OutputRow
from batchgen.job.storage import parts
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.part import Columns, Part, PartStem
from batchgen.job.storage.parts import write_part
from batchgen.job.verbs.merge_job import merge_output


def make_parts(folder: Path, groups: list[list[OutputRow]]) -> list[Part]:
    return [
        write_part(folder, PartStem("job", 1, seq), rows, Columns(), lambda: None)
        for seq, rows in enumerate(groups)
        if rows
    ]


def merged(parts: list[Part], scratch: Path, **options: Any) -> tuple[pa.Table, Merge]:
    schema = Columns().schema()
    merge = Merge(ranked(parts), schema, scratch, **options)
    return pa.concat_tables([schema.empty_table(), *merge.tables()]), merge


def keys(table: pa.Table) -> list[tuple[int, int]]:
    return list(zip(table["index"].to_pylist(), table["sample"].to_pylist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 40), unique=True, max_size=12), max_size=8),
    memory=st.sampled_from([1, 3_000, 1 << 28]),
)
def test_any_parts_merge_to_the_sorted_union_first_commit_winning(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[int]], memory: int
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    rows = [
        [make_row(i, s, completion=f"from {seq}") for i in group for s in range(i % 3 + 1)]
        for seq, group in enumerate(groups)
    ]
    first = {row.index: row.completion for group in reversed(rows) for row in group}
    table, merge = merged(make_parts(folder, rows), folder, memory_bytes=memory)
    assert keys(table) == [(i, s) for i in sorted(first) for s in range(i % 3 + 1)]
    assert table["completion"].to_pylist() == [first[i] for i in table["index"].to_pylist()]
    assert merge.duplicates == sum(map(len, rows)) - table.num_rows
    assert temporary_files(folder) == []


def test_a_stop_ends_a_merge_between_its_runs_too(tmp_path: Path) -> None:
    parts = make_parts(tmp_path, [[make_row(i) for i in range(k, 400, 8)] for k in range(8)])

    def stop() -> None:
        raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        merged(parts, tmp_path, memory_bytes=1, check_stop=stop)
    assert temporary_files(tmp_path) == []


def test_disorder_is_merged_in_passes_that_fit_in_memory(tmp_path: Path) -> None:
    indices = list(range(3_000))
    random.Random(0).shuffle(indices)
    groups = [[make_row(i) for i in indices[start : start + 50]] for start in range(0, 3_000, 50)]
    parts = make_parts(tmp_path, groups)
    budget = peak_bytes(ranked(parts)) // 10
    table, _ = merged(parts, tmp_path, memory_bytes=budget)
    assert table["index"].to_pylist() == list(range(3_000))


def test_tens_of_thousands_of_columns_take_time_in_proportion() -> None:
    """Each was looked for in a list of all: a minute here, and half an hour of a merge."""
    names = [f"c{number}" for number in range(30_000)]
    table = pa.table({name: pa.array(["x"]) for name in names[::2]})
    begun = time.process_time()
    wide = aligned(table, pa.schema([(name, pa.string()) for name in names]))
    assert time.process_time() - begun < 10
    assert wide["c2"].to_pylist() == ["x"]
    assert wide["c1"].to_pylist() == [None]


def test_long_rows_go_on_in_tables_of_bounded_bytes(tmp_path: Path) -> None:
    """However many there are: a window counted in rows alone would hold all 40 MB of these."""
    long = "x" * (1 << 18)
    groups = [[make_row(4 * k + i, completion=long) for i in range(4)] for k in range(40)]
    parts = make_parts(tmp_path, groups)
    sizes = [table.nbytes for table in Merge(ranked(parts), Columns().schema(), tmp_path).tables()]
    assert sum(sizes) > 2 * EMIT_BYTES
    assert max(sizes) <= EMIT_BYTES + max(part.size for part in parts)


def test_ranges_on_disk_go_on_in_tables_of_bounded_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large a range is: shards of every Nth row overlap everywhere."""
    monkeypatch.setattr(merge, "EMIT_BYTES", 20_000)
    rows = [make_row(i, completion="x" * 200) for i in range(4_000)]
    parts = make_parts(tmp_path, [rows[k::10] for k in range(10)])
    budget = peak_bytes(ranked(parts)) // 2
    made = Merge(ranked(parts), Columns().schema(), tmp_path, memory_bytes=budget)
    tables = list(made.tables())
    assert [i for table in tables for i in table["index"].to_pylist()] == list(range(4_000))
    assert max(table.nbytes for table in tables) < 60_000
    assert budget // 8 > 60_000  # a range has more


def test_missing_rows_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of([0, 1, 3, 4, 9]))
        with pytest.raises(MissingRowsError, match=r"7 of 12 rows missing: 2, 5-8, 10-11"):
            ledger.finalize(12)
        assert not (tmp_path / "out.parquet").exists()
        ledger.append(rows_of([2, 5, 6, 7, 8, 10, 11]))
        ledger.finalize(12)
    assert keys_of(tmp_path / "out.parquet") == expected_keys(12)


def test_rows_beyond_the_input_are_refused(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of(range(5)))
        with pytest.raises(BatchgenError, match="out of place"):
            ledger.finalize(4)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("keys", [[(0, 1)], [(0, 0), (0, 0)], [(0, 0), (0, 2)], [(1, 0), (0, 0)]])
def test_the_check_refuses_what_is_out_of_order(keys: list[tuple[int, int]]) -> None:
    rows = [make_row(*key) for key in keys]
    batch = pa.Table.from_pylist(
        [{**{n: getattr(r, n) for n in Columns().schema().names}} for r in rows],
        schema=Columns().schema(),
    )
    with pytest.raises(BatchgenError, match="out of place"):
        OutputCheck(5).add(batch)


def test_an_empty_input_makes_an_empty_output(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        assert ledger.finalize(0).rows == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
    with open_ledger(tmp_path) as again:
        assert again.finished is not None


def test_a_part_damaged_while_the_job_ran_is_found_and_run_again(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of(range(10)))
        ledger.flush()
        path = parts_of(tmp_path)[0]
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(BatchgenError, match="damaged after it was written"):
            ledger.finalize(10)
    with open_ledger(tmp_path) as again:
        assert finish(again, 10)
    assert keys_of(tmp_path / "out.parquet") == expected_keys(10)


def test_the_command_merges_what_a_stopped_run_left(tmp_path: Path) -> None:
    out, folder = tmp_path / "out.parquet", tmp_path / "out.parquet.ckpt"
    columns = Columns((("score", pa.float32()),), optional=frozenset({"token_ids"}))
    with open_ledger(tmp_path, columns=columns) as ledger:
        ledger.append([make_row(i, token_ids=[i], kept={"score": 0.5, "x": "y"}) for i in range(5)])
        ledger.checkpoint_input(InputCheckpoint(5, "digest"))
    job = parts.part_summary(parts_of(tmp_path)[0]).job
    assert survey(Layout(folder, out), job)[1] == columns
    with pytest.raises(UsageError, match="not known"):
        merge_output(out, folder)
    done = CliRunner().invoke(merge_command, [str(out), "--rows", "5"], catch_exceptions=False)
    assert done.exit_code == 0
    assert '"rows": 5' in done.output
    table = pq.read_table(out)
    assert table.schema.field("score").type == pa.float32()
    assert table["token_ids"].to_pylist() == [[i] for i in range(5)]
    assert merge_output(out, folder).rows == 5
