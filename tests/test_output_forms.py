"""Outputs as lines of JSON and as folders: the same rows, resumed, merged, compared, exported."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from echo_runs import CHANGING, batchgen, prompts, stable, write_rows

from batchgen.cli.command import main
from batchgen.cli.main import cli
from batchgen.errors import BatchgenError, UsageError
from batchgen.job.form import Form
from batchgen.job.output.folder import replace_folder

KILLED = -9


def cli_run(*args: object) -> Result:
    result = CliRunner().invoke(cli, [str(arg) for arg in args], catch_exceptions=True)
    if isinstance(result.exception, BatchgenError):  # `main` ends the process with its code
        result.exit_code = result.exception.exit_code
        return result
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def lines(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".gz":
        text = gzip.decompress(path.read_bytes()).decode()
    elif path.suffix == ".zst":
        text = pa.input_stream(str(path), compression="zstd").read().decode()
    else:
        text = path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def steady(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CHANGING} for row in rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input, and its rows as one Parquet file."""
    folder = tmp_path_factory.mktemp("whole")
    rows = prompts(300)
    rows[7] = {"id": "bad"}
    write_rows(folder / "in.jsonl", [{**row, "n": 2} for row in rows])
    assert run(folder / "whole.parquet").exit_code == 3
    return folder


@pytest.fixture
def whole(made: Path, tmp_path: Path) -> Path:
    """The rows as one Parquet file, in a folder of the test's own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "whole.parquet"


def run(out: Path, *args: object) -> Result:
    source = out.parent / "in.jsonl"
    return cli_run("run", "--in", source, "--out", out, "--engine", "echo", *args)


def summary(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst", "out"])
def test_lines_of_json_have_the_rows_of_the_parquet_file(whole: Path, name: str) -> None:
    out = whole.parent / name
    flags = ("--format", "jsonl") if name == "out" else ()
    assert run(out, *flags).exit_code == 3
    expected = stable(whole).to_pylist()
    assert steady(lines(out)) == expected
    assert list(lines(out)[0]) == pq.read_schema(whole).names
    again = summary(run(out, *flags))
    assert (again["computed"], again["ok"], again["exit_code"]) == (0, 299, 3)
    status = json.loads(cli_run("status", out, "--json").stdout)
    assert (status["state"], status["rows_done"]) == ("complete", 300)


def test_lines_of_json_are_retried_and_grow(whole: Path) -> None:
    out = whole.parent / "out.jsonl"
    run(out)
    retried = summary(run(out, "--retry", "failed"))
    assert (retried["computed"], retried["reused"]) == (1, 299)
    with (whole.parent / "in.jsonl").open("a") as file:
        file.write('{"prompt": "one more", "id": "more"}\n')
    grown = summary(run(out, "--incremental"))
    assert (grown["computed"], grown["rows"]) == (1, 301)
    assert len({row["index"] for row in lines(out)}) == 301


@pytest.mark.parametrize("name", ["out.jsonl", "folder"])
@pytest.mark.parametrize("at", ["final.rename", "final.renamed", "part.rename"])
def test_a_kill_at_the_end_leaves_what_the_next_run_makes_whole(
    whole: Path, name: str, at: str
) -> None:
    out = whole.parent / name
    flags = ("--rows-per-file", 70) if name == "folder" else ()
    args = ("run", "--in", whole.parent / "in.jsonl", "--out", out, "--engine", "echo", *flags)
    assert batchgen(*args, BATCHGEN_FAULT=f"kill:at={at}").returncode == KILLED
    assert run(out, *flags).exit_code == 3
    same = cli_run("diff", whole, out)
    assert same.exit_code == 0, same.output
    assert not list(whole.parent.glob(".*.tmp"))


def test_a_file_of_somebody_else_is_not_touched(whole: Path) -> None:
    out = whole.parent / "out.jsonl"
    out.write_text('{"mine": 1}\n')
    assert cli_run("run", "--in", whole.parent / "in.jsonl", "--out", out,
                   "--engine", "echo").exit_code == 4  # fmt: skip
    assert out.read_text() == '{"mine": 1}\n'
    assert run(out, "--overwrite").exit_code == 3
    text = out.read_text()
    out.write_text(text.replace("prompt number 5", "prompt number six"))
    assert run(out).exit_code == 4, "it was changed since"


def test_a_copied_file_is_still_the_jobs(whole: Path) -> None:
    out = whole.parent / "out.jsonl"
    run(out)
    data = out.read_bytes()
    out.unlink()
    out.write_bytes(data)
    assert summary(run(out))["computed"] == 0


@pytest.mark.parametrize("name", ["out.jsonl.gz", "folder.parquet"])
def test_shards_merge_into_the_form_that_the_job_began_with(whole: Path, name: str) -> None:
    out = whole.parent / name
    flags = ("--rows-per-file", 128) if name == "folder.parquet" else ()
    for shard in range(3):
        run(out, *flags, "--shard", f"{shard}/3")
    assert cli_run("merge", out).exit_code == 3
    assert cli_run("diff", whole, out).exit_code == 0
    assert (out.is_dir(), summary(run(out, *flags))["computed"]) == (bool(flags), 0)


def test_a_folder_holds_the_rows_in_order_so_many_a_file_with_one_manifest(whole: Path) -> None:
    out = whole.parent / "folder"
    assert run(out, "--rows-per-file", 128).exit_code == 3
    names = [f"part-{i:05d}-of-00003.parquet" for i in range(3)]
    assert sorted(path.name for path in out.iterdir()) == ["_manifest.json", *names]
    indices = [pq.read_table(out / name)["index"].unique().to_pylist() for name in names]
    assert indices == [[*range(128)], [*range(128, 256)], [*range(256, 300)]]
    manifest = json.loads((out / "_manifest.json").read_text())
    assert [file["rows"] for file in manifest["files"]] == [128, 128, 44]
    assert sum(file["output_rows"] for file in manifest["files"]) == 599
    assert manifest["batchgen.manifest"]["total_rows"] == 300
    kept = pa.concat_tables(pq.read_table(out / name) for name in names)
    assert kept.drop_columns([c for c in CHANGING if c in kept.column_names]).equals(stable(whole))


def test_a_folder_is_retried_overwritten_and_known_without_its_checkpoints(whole: Path) -> None:
    out = whole.parent / "folder"
    run(out, "--rows-per-file", 128)
    assert summary(run(out, "--rows-per-file", 128, "--retry", "failed"))["computed"] == 1
    assert run(out, "--rows-per-file", 100).exit_code == 4
    assert run(out, "--rows-per-file", 100, "--overwrite").exit_code == 3
    assert len(list(out.glob("part-*"))) == 3
    import shutil

    shutil.rmtree(f"{out}.ckpt")
    assert summary(run(out, "--rows-per-file", 100))["computed"] == 0
    assert cli_run("diff", whole, out).exit_code == 0


def test_lines_whose_rows_are_gone_are_not_taken_up_again(whole: Path) -> None:
    out = whole.parent / "out.jsonl"
    run(out)
    before = out.read_bytes()
    record = whole.parent / "out.jsonl.ckpt" / "output.parquet"
    record.rename(whole.parent / "aside")
    source = out.parent / "in.jsonl"
    source.write_text(source.read_text() + '{"id": "new", "prompt": "one more"}\n')
    for asked in (("--retry", "failed"), ("--incremental",)):
        again = run(out, *asked)
        assert again.exit_code in (4, 66)
        assert asked[0] == "--retry" or "output.parquet is gone" in str(again.exception)
    told = cli_run("report", out)
    assert told.exit_code == 66
    assert "output.parquet is gone" in str(told.exception)
    assert out.read_bytes() == before
    (whole.parent / "aside").rename(record)
    assert summary(run(out, "--incremental"))["computed"] == 1


@pytest.mark.parametrize("lost", ["gone", "torn"])
def test_a_folder_that_lost_a_file_is_not_called_complete(whole: Path, lost: str) -> None:
    out = whole.parent / "folder"
    run(out, "--rows-per-file", 128)
    file = out / "part-00001-of-00003.parquet"
    data = file.read_bytes()
    file.unlink()
    if lost == "torn":
        file.write_bytes(data[:-1])
    asked: list[tuple[object, ...]] = [
        ("diff", whole, out), ("report", out), ("inspect", out), ("export", out, "--to", "-"),
    ]  # fmt: skip
    assert {cli_run(*args).exit_code for args in asked} == {66}
    for flags in ((), ("--retry", "failed")):
        again = run(out, "--rows-per-file", 128, *flags)
        assert again.exit_code in (4, 66)
        assert file.name in str(again.exception)
    file.write_bytes(data)
    assert summary(run(out, "--rows-per-file", 128))["computed"] == 0
    assert cli_run("diff", whole, out).exit_code == 0


def test_a_folder_may_have_more_files_than_a_process_may_open(whole: Path) -> None:
    out = whole.parent / "folder"
    run(out, "--rows-per-file", 2)
    for words in (f"diff {whole} {out}", f"report {out}", f"inspect {out} --id bad"):
        command = f"ulimit -n 100; exec {sys.executable} -m batchgen {words}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_rows_per_file_of_an_empty_input(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [])
    assert run(tmp_path / "folder", "--rows-per-file", 5).exit_code == 0
    assert pq.read_table(tmp_path / "folder" / "part-00000-of-00001.parquet").num_rows == 0
    assert run(tmp_path / "out.jsonl").exit_code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_any_form_is_exported_as_the_parquet_file_is(whole: Path) -> None:
    texts = []
    for name, flags in [("a.parquet", ()), ("b.jsonl", ()), ("c", ("--rows-per-file", 99))]:
        out = whole.parent / name
        run(out, *flags)
        openai = cli_run("export", out, "--format", "openai", "--to", "-").stdout
        found = [json.loads(line) for line in openai.splitlines()]
        texts.append([(row["custom_id"], row["response"]["status_code"]) for row in found])
        assert cli_run("export", out, "--format", "csv", "--to", "-").stdout.count("\n") == 600
        assert (
            len(cli_run("export", out, "--format", "jsonl", "--to", "-").stdout.split("\n")) == 600
        )
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("name", ["whole.parquet", "out.jsonl", "folder"])
def test_a_dataset_folder_is_what_load_from_disk_reads(whole: Path, name: str) -> None:
    datasets = pytest.importorskip("datasets")
    out, to = whole.parent / name, whole.parent / "dataset"
    run(out, *(("--rows-per-file", 99) if name == "folder" else ()))
    assert cli_run("export", out, "--format", "hf", "--to", to).exit_code == 0
    rows = datasets.load_from_disk(str(to))
    assert rows["completion"][:] == pq.read_table(whole)["completion"].to_pylist()
    assert cli_run("export", out, "--format", "hf", "--to", to).exit_code == 73
    assert not list(whole.parent.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("out", "kind", "rows"),
    [("a.jsonl", "parquet", None), ("a.parquet", "jsonl", None), ("a.jsonl", None, 5)],
)
def test_flags_that_contradict_the_name_are_refused(
    out: str, kind: str | None, rows: int | None
) -> None:
    with pytest.raises(UsageError):
        Form.of(out, kind, rows)


def test_another_format_than_the_finished_ones_is_refused(whole: Path) -> None:
    out = whole.parent / "out"
    run(out)
    refused = run(out, "--format", "jsonl")
    assert refused.exit_code == 4
    assert '"parquet" -> "jsonl"' in str(refused.exception)


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"], "x": [float("nan")], "y": [[1.0, float("inf")]]})
    pq.write_table(table, tmp_path / "in.parquet")
    out = tmp_path / "out.jsonl"
    cli_run("run", "--in", tmp_path / "in.parquet", "--out", out, "--engine", "echo")
    assert [(row["x"], row["y"]) for row in lines(out)] == [(None, [1.0, None])]


def test_a_folder_takes_the_place_of_a_file_or_folder(tmp_path: Path) -> None:
    for number in range(2):
        new = tmp_path / "new"
        new.mkdir()
        (new / str(number)).touch()
        if not number:
            (tmp_path / "old").touch()
        replace_folder(new, tmp_path / "old")
        assert [path.name for path in (tmp_path / "old").iterdir()] == [str(number)]
        assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_times_that_python_has_no_value_for_are_text_in_lines_of_json(tmp_path: Path) -> None:
    kept = {
        "at": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", tz="Europe/Berlin")),
        "day": pa.array([1_700_000_000_000_000_000, 1], pa.timestamp("ns")),
        "clock": pa.array([1, 2_000], pa.time64("ns")),
        "took": pa.array([1_000_000_001, -1], pa.duration("ns")),
        "zone": pa.array([0, 1], pa.timestamp("us", tz="Nowhere/Land")),
        "deep": pa.array([{"x": [1]}, {"x": None}], pa.struct({"x": pa.list_(pa.duration("ns"))})),
    }
    pq.write_table(pa.table({"prompt": ["a", "b"], **kept}), tmp_path / "in.parquet")
    out, same = tmp_path / "out.jsonl", tmp_path / "same.parquet"
    for path in (out, same):
        done = batchgen("run", "-i", tmp_path / "in.parquet", "-o", path, "--engine", "echo", "-q")
        assert (done.returncode, done.stderr) == (0, "")
    assert [{name: row[name] for name in kept} for row in lines(out)] == [
        {
            "at": "2023-11-14T23:13:20.123456789+01:00",
            "day": "2023-11-14T22:13:20",
            "clock": "00:00:00.000000001",
            "took": "0:00:01.000000001",
            "zone": "1970-01-01T00:00:00+00:00",
            "deep": {"x": ["0:00:00.000000001"]},
        },
        {
            "at": None,
            "day": "1970-01-01T00:00:00.000000001",
            "clock": "00:00:00.000002",
            "took": "-1 day, 23:59:59.999999999",
            "zone": "1970-01-01T00:00:00.000001+00:00",
            "deep": {"x": None},
        },
    ]
    told = batchgen("export", same, "--format", "jsonl", "--to", tmp_path / "export.jsonl")
    assert told.returncode == 0
    assert steady(lines(tmp_path / "export.jsonl")) == steady(lines(out))


def test_a_folder_whose_last_file_finds_no_room_ends_in_73_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(20))
    words = ["run", "-i", str(source), "-o", str(tmp_path / "out"), "--engine", "echo"]
    words += ["--rows-per-file", "50"]

    def full(_: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr("batchgen.job.output.folder.RowGroupWriter.close", full)
        assert main(words) == 73
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    assert pq.read_table(tmp_path / "out").num_rows == 20
