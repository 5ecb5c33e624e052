"""Columns that stand in the names of folders: a partitioned data set loses none of its columns."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, write_rows

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


KINDS = ("parquet", "jsonl", "jsonl.zst", "json", "csv", "tsv.gz")


def write(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.name.partition(".")[2]
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending.startswith("json"):
        text = frame.to_json(orient="records", lines=ending != "json")
        with pa.output_stream(path, compression="zstd" if "zst" in ending else None) as file:
            file.write(text.encode())
    else:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in ending else ",")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    """The frame as pandas partitions it, in files of each kind."""
    FRAME.to_parquet(tmp_path / "data", partition_cols=["lang", "at"])
    for part in [*tmp_path.glob("data/*/*/*.parquet")]:
        write(pq.ParquetFile(part).read().to_pandas(), part.with_name(f"part.{kind}"))
        part.unlink()
    return tmp_path / "data"


def rows_of(spec: InputSpec) -> dict[str | None, InputRow]:
    rows = {row.id: row for row in Reader(spec)}
    assert [row.error for row in rows.values()] == [None] * len(rows)
    return rows


@pytest.mark.parametrize("pattern", ["**/part*", "*/*/part*", "lang=*/at=*/part*"])
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
    spec = InputSpec((f"{folder}/**/part*",), template=str(tmp_path / "p.j2"))
    columns = {name: row.columns for name, row in rows_of(spec).items()}
    assert columns["b"] is not None
    assert (columns["b"]["at"], columns["b"]["prompt"]) == ("x/y", "two")


def test_a_folder_named_like_a_parameter_is_that_parameter_in_files_of_any_kind(
    tmp_path: Path, kind: str
) -> None:
    for name in ("temperature=0.5/seed=7/stop=1", "temperature=hot/seed=7/stop=1"):
        write(FRAME[["prompt"]], tmp_path / name / f"part.{kind}")
    own = pd.DataFrame({"id": ["own"], "prompt": ["p"], "temperature": [0.25]})
    write(own, tmp_path / f"temperature=9/seed=__HIVE_DEFAULT_PARTITION__/x/part.{kind}")
    found = [*Reader(InputSpec((f"{tmp_path}/*/*/*/part*",)))]
    good = [row.params for row in found[:3]]
    assert {(p.temperature, p.seed, p.stop) for p in good} == {(0.5, 7, ("1",))}
    assert [row.error is None for row in found] == [True] * 4 + [False] * 3
    assert (found[3].params.temperature, found[3].params.seed) == (0.25, 0)
    assert "temperature" in str(found[-1].error)


def test_only_what_is_asked_for_is_kept(folder: Path) -> None:
    glob = f"{folder}/**/part*"
    one = rows_of(InputSpec((glob,), keep_columns="at"))
    assert {name: row.kept for name, row in one.items()} == {
        "a": {"at": "12:30"},
        "b": {"at": "x/y"},
        "c": {"at": "12:30"},
    }
    none = rows_of(InputSpec((glob,), keep_columns="none"))
    assert [row.kept for row in none.values()] == [{}, {}, {}]


def test_a_column_of_the_file_wins(tmp_path: Path, kind: str) -> None:
    write(FRAME.fillna("-"), tmp_path / f"lang=xx/part.{kind}")
    rows = rows_of(InputSpec((f"{tmp_path}/*/part*",)))
    assert [row.kept["lang"] for row in rows.values()] == ["de", "en", "-"]


def test_the_first_of_two_folders_of_one_name_counts(tmp_path: Path, kind: str) -> None:
    write(FRAME[["id", "prompt"]], tmp_path / f"lang=de/lang=en/part.{kind}")
    rows = rows_of(InputSpec((f"{tmp_path}/**/part*",)))
    assert [row.kept for row in rows.values()] == [{"lang": "de"}] * 3


def test_a_row_that_lacks_a_column_that_others_have_takes_it_from_the_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "lang=de").mkdir()
    lines = [{"prompt": "a"}, {"prompt": "b", "lang": "en"}, {"prompt": "c", "lang": None}]
    write_rows(tmp_path / "lang=de" / "rows.jsonl", lines)
    rows = list(Reader(InputSpec((f"{tmp_path}/*/*.jsonl",))))
    assert [row.kept["lang"] for row in rows] == ["de", "en", None]


def run(folder: Path, out: Path, *more: object) -> CompletedProcess[str]:
    return batchgen("run", "-i", f"{folder}/**/part*", "-o", out, "--engine", "echo", *more)


def test_a_file_in_another_folder_is_another_input(folder: Path, tmp_path: Path) -> None:
    """Its name, size and time are what they were."""
    out = tmp_path / "out.parquet"
    assert run(folder, out).returncode == 0
    assert run(folder, out).returncode == 0
    (folder / "lang=de").rename(folder / "lang=da")
    again = run(folder, out)
    assert again.returncode == 4, again.stderr
    assert "lang=da" in again.stderr


def begun_before_keys_were_read(out: Path, folder: Path) -> None:
    """As a batchgen that reads no folder's name would have begun it: named file by file."""
    files = [name for path in sorted(folder.glob("*/*/part*")) for name in ("-i", path)]
    done = batchgen("run", *files, "-o", out, "--engine", "echo", "--keep-columns", "none")
    assert done.returncode == 0, done.stderr


def test_a_job_that_read_no_folder_names_goes_on_only_where_they_change_nothing(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    begun_before_keys_were_read(out, folder)
    same = run(folder, out, "--keep-columns", "none")
    assert same.returncode == 0, same.stderr
    manifest = tmp_path / "out.parquet.ckpt" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"none"', '"all"'))
    other = run(folder, out)
    assert other.returncode == 4, other.stderr


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
