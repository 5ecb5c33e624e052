"""The reader: rows in order, duplicates, shards, resume and the digest that guards it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import ErrorCode, FingerprintMismatchError
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.input.reader import Reader
from batchgen.job.input.rereading import verify
from batchgen.job.input_digest import InputCheckpoint, InputDigest
from batchgen.job.shard import Shard
from batchgen.job.spec import InputSpec

ROWS = [{"id": f"r{n}", "prompt": f"prompt {n}", "n_th": n} for n in range(40)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_until(path: str, count: int, **spec: Any) -> InputCheckpoint:
    reader = Reader(InputSpec((path,), **spec))
    for row in reader:
        if row.index == count - 1:
            return reader.digest.checkpoint()
    raise AssertionError("too short")


def test_rows_of_all_sources_have_one_index_and_their_own_origin(tmp_path: Path) -> None:
    one = write(tmp_path / "1.jsonl", ROWS[:2])
    two = str(tmp_path / "2.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[2:5]), two)
    reader = Reader(InputSpec((one, two)), flags={"n": 3})
    rows = list(reader)
    assert [row.index for row in rows] == [0, 1, 2, 3, 4]
    assert [row.origin for row in rows] == [
        f"{one}:1",
        f"{one}:2",
        *(f"{two}:{n}" for n in (1, 2, 3)),
    ]
    assert reader.rows_read == 5
    assert all(row.params.n == 3 for row in rows)


@pytest.mark.parametrize("limit", [0, 1, 3, 5, 99])
def test_limit_counts_over_all_sources(tmp_path: Path, limit: int) -> None:
    one, two = write(tmp_path / "1.jsonl", ROWS[:3]), write(tmp_path / "2.jsonl", ROWS[3:6])
    reader = Reader(InputSpec((one, two), limit=limit))
    assert len(list(reader)) == min(limit, 6) == reader.rows_read


def test_bad_lines_stand_in_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n\n{oops\n\xff\n[]\n{"prompt": "b"}')
    rows = list(Reader(InputSpec((str(path),))))
    assert [(row.index, row.origin[-2:], row.error and row.error.code) for row in rows] == [
        (0, ":1", None),
        (1, ":3", ErrorCode.INVALID_JSON),
        (2, ":4", ErrorCode.INVALID_JSON),
        (3, ":5", ErrorCode.INVALID_ROW),
        (4, ":6", None),
    ]


def test_the_first_of_equal_ids_is_served_and_later_ones_say_so(tmp_path: Path) -> None:
    ids: list[Any] = ["a", 1, "1", None, None, "", "3", "a", "#3"]
    rows = [{"id": id, "prompt": "p"} for id in ids]
    read = list(Reader(InputSpec((write(tmp_path / "a.jsonl", rows),))))
    bad = [row.index for row in read if row.error]
    assert bad == [2, 7]
    assert all(row.error and row.error.code is ErrorCode.DUPLICATE_ID for row in (read[2], read[7]))
    assert read[7].id == "a"
    assert len({row.row_key for row in read if not row.error}) == 7


def test_an_id_is_taken_by_a_bad_row_too(tmp_path: Path) -> None:
    rows = [{"id": "a"}, {"id": "a", "prompt": "p"}]
    read = list(Reader(InputSpec((write(tmp_path / "a.jsonl", rows),))))
    assert [row.error and row.error.code for row in read] == [
        ErrorCode.MISSING_PROMPT,
        ErrorCode.DUPLICATE_ID,
    ]


def test_done_rows_are_left_out_and_still_count(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *ROWS[:10],
        {"id": "r1", "prompt": "again"},
        {"id": "new", "prompt": "x", "late": 1},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    whole = Reader(InputSpec((path,)))
    assert len(list(whole)) == 12
    reader = Reader(InputSpec((path,)))
    reader.skip_hint(lambda index: index < 5 or index == 11)
    left = [(row.index, row.error and row.error.code) for row in reader]
    assert left == [*((n, None) for n in range(5, 10)), (10, ErrorCode.DUPLICATE_ID)]
    assert reader.digest.checkpoint() == whole.digest.checkpoint()
    assert reader.rows_read == 12
    assert reader.kept_schema == whole.kept_schema


def test_columns_of_done_rows_are_looked_at_once_and_count_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on passes over millions of rows before its first one. What they brought is
    known then: here all late columns that there may be, one of them by a row that is left."""
    monkeypatch.setattr("batchgen.job.input.reader._SAMPLE_ROWS", 1)
    monkeypatch.setattr("batchgen.job.fields.kept_columns.MAX_LATE_COLUMNS", 2)
    rows: list[dict[str, Any]] = [
        *({"id": f"a{n}", "prompt": "p", "tag": n} for n in range(200)),
        *({"id": f"b{n}", "prompt": "p", "tag": n, "one": n} for n in range(200)),
        *({"id": f"c{n}", "prompt": "p", "two": [n]} for n in range(3)),
        {"id": "c3", "prompt": "p", "two": "text"},
        {"id": "left", "prompt": "p", "one": 1, "two": 2, "three": 3},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    whole = list(Reader(InputSpec((path,))))
    looked_at = []
    read = KeptColumns.read
    monkeypatch.setattr(
        KeptColumns, "read", lambda self, extras: looked_at.append(extras) or read(self, extras)
    )
    reader = Reader(InputSpec((path,)))
    reader.skip_hint(lambda index: index < len(rows) - 1)
    (left,) = reader
    assert left.kept == whole[-1].kept == {"one": "1", "two": "2"}
    assert len(looked_at) == 7  # two kinds of rows, four whose column is told by its value, and one


@pytest.mark.parametrize("n", [1, 3, 7])
def test_shards_part_the_rows_and_agree_on_duplicates(tmp_path: Path, n: int) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS, ROWS[3], {"prompt": "no id"}, ROWS[0]])
    whole = {row.index: row.error and row.error.code for row in Reader(InputSpec((path,)))}
    parts: dict[int, Any] = {}
    for i in range(n):
        for row in Reader(InputSpec((path,)), shard=Shard(i, n)):
            assert row.index not in parts
            parts[row.index] = row.error and row.error.code
    assert dict(sorted(parts.items())) == whole


def test_the_digest_follows_content_and_not_name_newline_or_what_comes_later(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jsonl"
    write(path, ROWS)
    read = read_until(str(path), 20)
    text = path.read_text()
    for name, data in (
        ("renamed.jsonl", text),
        ("crlf.jsonl", text.replace("\n", "\r\n")),
        ("blank.jsonl", "\ufeff\n" + text.replace("\n", "\n\n")),
        ("cut.jsonl", "\n".join(text.splitlines()[:20])),
        ("grown.jsonl", text + "{}\n"),
    ):
        other = tmp_path / name
        other.write_text(data, newline="")
        assert read_until(str(other), 20) == read
        verify(Reader(InputSpec((str(other),))), read)


def parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("make", [write, parquet])
def test_a_changed_or_shrunk_input_is_refused_with_where(tmp_path: Path, make: Any) -> None:
    path = tmp_path / ("a.jsonl" if make is write else "a.parquet")
    make(path, ROWS)
    read = read_until(str(path), 20)
    verify(Reader(InputSpec((str(path),))), read)
    verify(Reader(InputSpec((str(path),))), InputDigest().checkpoint())
    changes = {
        "changed": [*ROWS[:5], {**ROWS[5], "prompt": "prompt X"}, *ROWS[6:]],
        "swapped": [ROWS[1], ROWS[0], *ROWS[2:]],
        "rows left": ROWS[:19],
    }
    for rows in changes.values():
        make(path, rows)
        with pytest.raises(FingerprintMismatchError, match=path.name) as caught:
            verify(Reader(InputSpec((str(path),))), read)
        assert caught.value.exit_code == 4
    make(path, [*ROWS[:20], {**ROWS[20], "prompt": "changed later"}])
    verify(Reader(InputSpec((str(path),))), read)


@pytest.mark.parametrize("row", [0, 1, 70, 71, 4998, 4999])
def test_the_place_of_a_change_is_told_as_closely_as_the_marks_allow(
    tmp_path: Path, row: int
) -> None:
    rows = [{"prompt": f"p{i}"} for i in range(5000)]
    path = tmp_path / "a.jsonl"
    reader = Reader(InputSpec((write(path, rows),)))
    assert len(list(reader)) == 5000
    read = reader.digest.checkpoint()
    assert 32 <= len(read.marks) < 64
    rows[row] = {"prompt": "other"}
    changed = Reader(InputSpec((write(path, rows),)))
    with pytest.raises(FingerprintMismatchError) as caught:
        verify(changed, read)
    found = [int(number) for number in re.findall(r"a\.jsonl:(\d+)", caught.value.message)]
    assert found[0] <= row + 1 <= found[-1] <= found[0] + 127


def test_what_rows_set_is_shared_where_it_is_equal_and_let_go_where_it_is_large(
    tmp_path: Path,
) -> None:
    alike: dict[str, Any] = {"prompt": "p", "max_tokens": 9, "temperature": 0.5}
    large = [alike | {"logit_bias": {str(n + i): 1.5 for i in range(2000)}} for n in range(50)]
    reader = Reader(InputSpec((write(tmp_path / "a.jsonl", [alike, alike, *large]),)))
    rows = iter(reader)
    assert next(rows).params is next(rows).params
    tracemalloc.start()
    try:
        assert all(len(row.params.logit_bias) == 2000 for row in rows)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 20
    assert reader.rows_read == 52


def test_verifying_leaves_the_reader_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    reader = Reader(InputSpec((path,)))
    verify(reader, read_until(path, 10))
    assert reader.rows_read == 0
    assert len(list(reader)) == 40


def test_identity_is_that_of_the_file_when_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, ROWS)
    reader = Reader(InputSpec((str(path),)))
    before = reader.identity()
    write(path, ROWS[:3])
    assert reader.identity() == before
    assert Reader(InputSpec((str(path),))).identity() != before


def test_extras_of_the_first_rows_are_settled_and_late_ones_come_with_their_row(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": "p", "a": 1}] * 1000 + [{"prompt": "p", "late": 2}]
    reader = Reader(InputSpec((write(tmp_path / "a.jsonl", rows),)))
    assert reader.kept_schema == [("a", pa.string())]
    assert list(reader)[-1].kept == {"late": "2"}


def test_the_sample_files_say_the_same(tmp_path: Path) -> None:
    folder = Path(__file__).parent.parent / "sample_data"
    lines, table = (
        list(Reader(InputSpec((str(folder / f"general.{suffix}"),))))
        for suffix in ("jsonl", "parquet")
    )
    assert len(lines) >= 60
    for one, other in zip(lines, table, strict=True):
        assert one.error is None
        assert (one.id, one.prompt, one.params, one.kept) == (
            other.id,
            other.prompt,
            other.params,
            other.kept,
        )
    assert all(row.error is None for row in Reader(InputSpec((str(folder / "chat.jsonl"),))))


def test_reading_any_source_imports_no_torch(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"prompt": ["a"]}).save_to_disk(str(tmp_path / "saved"))
    one = write(tmp_path / "a.jsonl", ROWS)
    two = parquet(tmp_path / "b.parquet", [{"prompt": "x"}])
    code = (
        "import sys; from batchgen.job.input.reader import Reader;"
        "from batchgen.job.spec import InputSpec;"
        "n = len(list(Reader(InputSpec((sys.argv[1], sys.argv[2])))));"
        "assert 'datasets' not in sys.modules;"
        "n += len(list(Reader(InputSpec((sys.argv[3],)))));"
        "import datasets; rows = datasets.Dataset.from_dict({'prompt': ['s']});"
        "datasets.load_dataset = lambda *_, **__: rows.to_iterable_dataset();"
        "import huggingface_hub; huggingface_hub.HfApi.dataset_info = None;"
        "n += len(list(Reader(InputSpec(('hf:some/name',)))));"
        "print(n, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, one, two, str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["43", "False", "False"]
