"""A name of an output that is not served is refused, and a refused run touches nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from echo_runs import batchgen, prompts, summary_of, write_rows

from batchgen.errors import OutputUnwritableError, UsageError
from batchgen.job.output.name import check_name, check_served


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("s3://bucket/out.parquet", "s3:// is not a place"),
        ("hf://datasets/a/b.parquet", "hf:// is not a place"),
        ("gs://b/o", "gs:// is not a place"),
        ("out.csv", r"\.csv is another format"),
        ("out.json", r"\.json is another format"),
        ("out.parquet.gz", r"\.gz is another format"),
    ],
)
def test_a_place_or_format_that_is_not_served_is_refused(name: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        check_served(Path(name))


@pytest.mark.parametrize("name", ["out.parquet", "out", "out.pq", "./a:b/out", "run-0.5", "/x/y.z"])
def test_other_names_are_names(name: str) -> None:
    check_served(Path(name))


def test_links_that_lead_nowhere_are_no_place_for_an_output(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for out in (tmp_path / "loop", tmp_path / "loop" / "out.parquet"):
        with pytest.raises(OutputUnwritableError, match="symbolic links"):
            check_name(out)


@pytest.mark.parametrize("letter", ["n", "é"])
def test_a_name_is_refused_or_all_that_is_made_of_it_can_be_written(
    tmp_path: Path, letter: str
) -> None:
    """It was met as an error without a word, or when everything was computed."""
    rows = write_rows(tmp_path / "in.jsonl", prompts(3))
    ending = ".parquet"
    most = (241 - len(ending)) // len(letter.encode())
    with pytest.raises(OutputUnwritableError, match="too long") as refused:
        check_name(tmp_path / (letter * (most + 1) + ending))
    assert "241 bytes" in str(refused.value.hint)
    for number, more in enumerate([(), ("--rows-per-file", "2"), ("--shard", "0/1")]):
        out = tmp_path / str(number) / (letter * most + ending)
        done = batchgen("run", "--engine", "echo", "--in", rows, "--out", out, *more)
        assert done.returncode == 0, done.stderr


def test_a_run_removes_its_own_temporary_files_and_not_those_of_a_name_that_begins_alike(
    tmp_path: Path,
) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", prompts(3)), tmp_path / "out"
    own, other = tmp_path / ".out.0123abcd.tmp", tmp_path / ".out2.parquet.0123abcd.tmp"
    own.touch()
    other.touch()
    assert batchgen("run", "--engine", "echo", "--in", rows, "--out", out).returncode == 0
    assert (own.exists(), other.exists()) == (False, True)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and times; whether somebody holds the lock is asked by touching it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    times = {p: 0 if p.name == "lock" else p.stat().st_mtime_ns for p in files}
    return {str(p.relative_to(folder)): (p.read_bytes(), times[p]) for p in files}


@pytest.mark.parametrize("shard", [(), ("--shard", "0/2")], ids=["whole", "shard"])
def test_a_run_refused_for_its_input_or_settings_touches_nothing(
    tmp_path: Path, shard: tuple[str, ...]
) -> None:
    rows, out = prompts(3000), tmp_path / "out.parquet"
    source = write_rows(tmp_path / "in.jsonl", rows)
    args = ("run", "--engine", "echo", "--in", source, "--out", out, "--checkpoint-every", "300")
    died = batchgen(*args, *shard, BATCHGEN_FAULT="kill:at=part.rename,nth=2")
    assert died.returncode == -9, died.stderr
    before = contents(tmp_path / "out.parquet.ckpt")
    assert any("begun-" in name for name in before)
    write_rows(source, [{"id": "other", "prompt": "another"}, *rows[1:]])
    changed = batchgen(*args, *shard)
    assert changed.returncode == 4, changed.stderr
    assert "changed" in changed.stderr
    assert contents(tmp_path / "out.parquet.ckpt") == before
    write_rows(source, rows)
    assert batchgen(*args, *shard, "--seed", "9").returncode == 4
    assert contents(tmp_path / "out.parquet.ckpt") == before
    assert summary_of(batchgen(*args, *shard))["exit_code"] == 0
