"""Inputs: every way to name them, in a settled order; what is missing is said with a next step."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from batchgen.errors import InputUnreadableError, OutputUnwritableError, UsageError
from batchgen.job.input.source import SourceKind
from batchgen.job.input.sources import find_sources
from batchgen.job.stores.places import place_of

ROW = b'{"prompt": "a"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    for name in ("b.jsonl", "a.ndjson", "c.jsonl.gz", "sub/d.jsonl", "note.txt", ".hidden.jsonl"):
        (data / name).write_bytes(gzip.compress(ROW) if name.endswith("gz") else ROW)
    return data


def names(inputs: list[str], output: Path | None = None) -> list[str]:
    return [source.path.name for source in find_sources(inputs, output)]


def test_a_folder_gives_its_row_files_sorted_without_hidden_ones(folder: Path) -> None:
    assert names([str(folder)]) == ["a.ndjson", "b.jsonl", "c.jsonl.gz"]


def test_a_glob_is_sorted_and_may_look_into_subfolders(folder: Path) -> None:
    assert names([f"{folder}/*.jsonl"]) == ["b.jsonl"]
    assert names([f"{folder}/**/*.jsonl"]) == ["b.jsonl", "d.jsonl"]


def test_a_name_in_the_home_folder_is_one_also_where_no_shell_wrote_it_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert names(["~/b.jsonl", "~/a*", "~/sub"]) == ["b.jsonl", "a.ndjson", "d.jsonl"]
    assert place_of("~/out.parquet") == folder / "out.parquet"


def test_arguments_keep_their_order(folder: Path) -> None:
    assert names([f"{folder}/b.jsonl", f"{folder}/a.ndjson"]) == ["b.jsonl", "a.ndjson"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_bytes(ROW)
    assert names([str(tmp_path / "a[1].jsonl")]) == ["a[1].jsonl"]


def test_the_output_is_left_out_of_a_folder_and_a_glob(folder: Path) -> None:
    output = folder / "b.jsonl"
    assert "b.jsonl" not in names([str(folder)], output)
    assert names([f"{folder}/*"], output) == ["a.ndjson", "c.jsonl.gz", "note.txt"]


def test_finished_rows_of_runs_beside_the_input_are_no_input(folder: Path) -> None:
    for name in ("out.parquet.ckpt/parts/part-1.parquet", "mine/parts/part-1.parquet"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"PAR1")
    (folder / "out.parquet.ckpt" / "owners-door").mkdir()
    found = find_sources([f"{folder}/**/*.parquet"], folder / "out.parquet")
    assert [source.path.parent.parent.name for source in found] == ["mine"]


@pytest.mark.parametrize("link", ["same", "symbolic", "hard", "spelling"])
def test_an_input_that_is_the_output_is_refused_with_73(tmp_path: Path, link: str) -> None:
    path, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    path.write_bytes(b"PAR1")
    if link == "symbolic":
        other.symlink_to(path)
    elif link == "hard":
        os.link(path, other)
    else:
        other = path if link == "same" else tmp_path / "x" / ".." / "a.parquet"
        (tmp_path / "x").mkdir()
    with pytest.raises(OutputUnwritableError) as caught:
        find_sources([str(path)], other)
    assert caught.value.exit_code == 73


def test_kinds_are_told_by_magic_before_suffix(tmp_path: Path) -> None:
    for name, data, kind in (
        ("a.jsonl", ROW, SourceKind.JSONL),
        ("b.jsonl", gzip.compress(ROW), SourceKind.JSONL_GZ),
        ("c", b"\x28\xb5\x2f\xfd rest", SourceKind.JSONL_ZST),
        ("d.bin", b"PAR1 rest", SourceKind.PARQUET),
        ("e.parquet", b"not one", SourceKind.PARQUET),
        ("f", ROW, SourceKind.JSONL),
    ):
        (tmp_path / name).write_bytes(data)
        assert find_sources([str(tmp_path / name)])[0].kind is kind


@pytest.mark.parametrize(
    "argument",
    [
        "nothing.jsonl",
        "*.jsonl",
        "empty",
        "no/folder/a.jsonl",
        "org/a.jsonl",
        "org/a.json",
        "-",
        "pipe",
    ],
)
def test_what_is_missing_is_named_with_a_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputUnreadableError) as caught:
        find_sources([argument])
    assert caught.value.exit_code == 66
    assert argument in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("argument", ["{long}.jsonl", "{long}/a.jsonl", "{long}/*.jsonl"])
def test_what_may_not_be_looked_at_is_named(tmp_path: Path, argument: str) -> None:
    """As a folder on the way that may not be looked into: but nobody may forbid that to root."""
    name = str(tmp_path / argument.format(long="n" * 300))
    with pytest.raises(InputUnreadableError, match="File name too long") as refused:
        find_sources([name])
    assert name in refused.value.message
    assert refused.value.hint


def test_a_folder_that_may_not_be_listed_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(InputUnreadableError, match="Permission denied") as refused:
        find_sources([str(folder)])
    assert str(folder) in refused.value.message


@pytest.mark.parametrize("pattern", ["*/a.jsonl", "**/*.jsonl", "*/*/a.jsonl", "[pq]*/*.jsonl"])
def test_a_folder_that_a_pattern_may_not_look_into_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pattern: str,
) -> None:
    for name in ("plain/a.jsonl", "plain/in/a.jsonl", "quiet/a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    find_sources([f"{tmp_path}/{pattern}"])
    assert not caplog.messages
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: "quiet" not in str(path) and allowed(path, mode)
    )
    find_sources([f"{tmp_path}/{pattern}"])
    (told,) = caplog.messages
    assert f"{tmp_path}/quiet/ may not be looked into" in told


def test_hub_ids_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for argument, name in (
        ("org/name", "org/name"),
        ("org/name:config", "org/name:config"),
        ("hf://datasets/org/name", "org/name"),
        ("hf:squad", "squad"),
    ):
        (source,) = find_sources([argument])
        assert (source.name, source.kind) == (name, SourceKind.HUB)
    (tmp_path / "org").mkdir()
    with pytest.raises(InputUnreadableError):
        find_sources(["org/name"])


def test_identity_changes_with_the_content_and_not_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(ROW)
    before = find_sources([str(path)])[0].identity()
    assert before["name"] == "a.jsonl"
    assert before["size"] == len(ROW)
    path.write_bytes(ROW + ROW)
    assert find_sources([str(path)])[0].identity() != before


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("ftp://user:hidden@host/rows.jsonl", "copy it to a file here"),
        ("sftp://host/rows.jsonl?key=hidden", "copy it to a file here"),
        ("hf://models/org/name", "hf://datasets/org/name"),
    ],
)
def test_an_address_is_refused_as_one_and_its_secrets_are_not_said(
    argument: str, said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        find_sources([argument])
    text = f"{refused.value} {refused.value.hint}"
    assert f"{argument.partition(':')[0]}:// is not read" in text
    assert said in text
    assert "hidden" not in text


def test_a_file_of_a_folder_named_like_a_scheme_is_still_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    assert find_sources(["s3://rows.jsonl"])[0].kind is SourceKind.JSONL
