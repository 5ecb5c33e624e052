"""The ledger's promises hold in an object store as on a disk: the same tests over both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from azurite import azurite, is_installed
from gcs_server import Bucket, gcs_bucket
from ledger_tools import (
    FINGERPRINT,
    OTHER,
    Crash,
    die,
    expected_keys,
    finish,
    finished_job,
    hooked,
    keys_of,
    open_ledger,
    parts_of,
    rows_of,
)

from batchgen.errors import FingerprintMismatchError, InputUnreadableError, OutputHeldError
from batchgen.job.input.sources import find_sources
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.stores import clients
from batchgen.job.stores.places import Place
from batchgen.job.stores.remote_path import RemotePath

obstore_store = pytest.importorskip("obstore.store")


@pytest.fixture(scope="module")
def azure() -> Iterator[dict[str, str]]:
    if not is_installed():
        pytest.skip("needs azurite-blob (npm install -g azurite)")
    with azurite() as settings:
        yield settings


@pytest.fixture(scope="module")
def google() -> Iterator[tuple[Bucket, dict[str, str]]]:
    with gcs_bucket() as made:
        yield made


@pytest.fixture(params=["disk", "store", "gcs", "azurite"])
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """A folder on the disk, one in a store that keeps its objects in memory, one on a server that
    speaks Google's protocol, and one on Azure's emulator."""
    if request.param == "disk":
        return tmp_path
    if request.param == "gcs":
        _, settings = request.getfixturevalue("google")
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(clients._clients, "gs://bucket", clients._made("gs://bucket"))
        return RemotePath("gs://bucket", tmp_path.name)
    if request.param == "azurite":
        for name, value in request.getfixturevalue("azure").items():
            monkeypatch.setenv(name, value)
        return RemotePath("az://bucket", tmp_path.name)
    clients._clients["s3://memory"] = obstore_store.MemoryStore()
    return RemotePath("s3://memory", "folder")


def snapshot(folder: Place) -> dict[str, bytes]:
    if isinstance(folder, RemotePath):
        return {str(path): path.read_bytes() for path in folder.walk_files()}
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_job_is_recognised_without_a_write(folder: Place) -> None:
    finished_job(folder)
    before = snapshot(folder)
    with open_ledger(folder) as again:
        assert again.finished is not None
        assert again.finished.rows == 5
    assert snapshot(folder) == before
    assert keys_of(folder / "out.parquet") == expected_keys(5)


def test_nothing_but_what_a_rerun_needs_is_left(folder: Place) -> None:
    finished_job(folder)
    names = {name.rpartition("out.parquet")[2] for name in snapshot(folder)}
    claims = {name for name in names if name.startswith((".ckpt/owners", ".ckpt/lock"))}
    assert names - claims == {"", ".ckpt/manifest.json"}


def test_other_settings_are_refused_and_nothing_is_touched(folder: Place) -> None:
    with open_ledger(folder) as ledger:
        ledger.append(rows_of([0, 1]))
    before = snapshot(folder)
    with pytest.raises(FingerprintMismatchError, match=r"sampling.temperature: 0.7 -> 0.9"):
        open_ledger(folder, fingerprint=OTHER)
    assert snapshot(folder) == before


@pytest.mark.parametrize("content", [b"precious", b""])
def test_a_foreign_output_is_refused_and_overwritten_only_when_whole(
    folder: Place, content: bytes
) -> None:
    out = folder / "out.parquet"
    out.write_bytes(content)
    with pytest.raises(FingerprintMismatchError, match="exists"):
        open_ledger(folder)
    with open_ledger(folder, overwrite=True) as ledger:
        ledger.append(rows_of(range(3)))
        ledger.flush()
        assert out.read_bytes() == content
    with open_ledger(folder, overwrite=True) as ledger:
        assert ledger.num_done == 3, "the same command again continues"
        ledger.finalize(3)
    assert keys_of(out) == expected_keys(3)


@pytest.mark.parametrize(
    ("point", "nth"),
    [("part.rename", 1), ("part.renamed", 2), ("manifest.rename", 2), ("journal.write", 2),
     ("inflight.renamed", 2), ("final.write", 1), ("final.rename", 1), ("final.renamed", 1)],
)  # fmt: skip
def test_a_run_that_dies_at_any_point_is_continued(folder: Place, point: str, nth: int) -> None:
    left = [nth]

    def hook(passed: str, path: object) -> None:
        if passed == point:
            left[0] -= 1
            if not left[0]:
                raise Crash(point)

    def run() -> None:
        ledger = open_ledger(folder)
        try:
            for start in range(0, 24, 4):
                batch = [i for i in range(start, start + 4) if not ledger.is_done(i)]
                if batch and ledger.finished is None:
                    ledger.begin(batch)
                    ledger.checkpoint_input(InputCheckpoint(start + 4, "digest"))
                    ledger.save_inflight({(batch[0], 0): [1, 2]})
                    ledger.append(rows_of(batch[::-1]))
            if ledger.finished is None:
                ledger.finalize(24)
        except Crash:
            die(ledger)
            raise
        ledger.close()

    with hooked(hook):
        try:
            run()
        except Crash:
            reached = True
        else:
            reached = False
    assert reached
    run()
    assert keys_of(folder / "out.parquet") == expected_keys(24)
    assert parts_of(folder) == []


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_part_counts_as_absent(folder: Place, damage: str) -> None:
    with open_ledger(folder) as ledger:
        ledger.append(rows_of(range(8)))
    part = parts_of(folder)[0]
    data = bytearray(part.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 16
    part.write_bytes(bytes(data))
    with open_ledger(folder) as ledger:
        assert finish(ledger, 8)
    assert keys_of(folder / "out.parquet") == expected_keys(8)


def test_the_journal_counts_the_runs_in_which_a_row_was_begun(folder: Place) -> None:
    for attempt in (1, 2, 3):
        ledger = open_ledger(folder)
        assert ledger.journal.attempt(7) == attempt
        assert ledger.journal.deaths.get(7, 0) == attempt - 1
        ledger.begin([6, 7])
        die(ledger)


def test_tokens_in_flight_survive(folder: Place) -> None:
    with open_ledger(folder) as ledger:
        ledger.begin([1])
        ledger.save_inflight({(1, 0): [5, 6, 7]})
    with open_ledger(folder) as ledger:
        assert ledger.journal.inflight_tokens(1, 0) == [5, 6, 7]
        assert ledger.journal.deaths == {}


def test_a_second_run_is_refused_while_the_first_lives(folder: Place) -> None:
    with open_ledger(folder), pytest.raises(OutputHeldError, match="is being written by process"):
        open_ledger(folder, run_id="second")
    open_ledger(folder, run_id="second").close()


def test_shards_are_merged(folder: Place) -> None:
    from batchgen.job.shard import Shard
    from batchgen.job.verbs.merge_job import merge_output
    from batchgen.job.verbs.status import status_of

    out, work = folder / "out.parquet", folder / "out.parquet.ckpt"
    for index in (1, 0):
        with open_ledger(folder, shard=Shard(index, 2)) as ledger:
            rows = [i for i in range(9) if i % 2 == index]
            ledger.begin(rows)
            ledger.append(rows_of(rows))
            ledger.checkpoint_input(InputCheckpoint(9, "digest"))
            ledger.finalize(9)
    assert status_of(out, work).state == "mergeable"
    assert merge_output(out, work).rows == 9
    assert keys_of(out) == expected_keys(9)
    assert status_of(out, work).state == "complete"
    assert merge_output(out, work).rows == 9
    assert FINGERPRINT


def test_a_folder_whose_rows_lie_in_folders_below_it_says_how_to_name_them() -> None:
    """It said that nothing lies below that name."""
    store = clients._clients["s3://below"] = obstore_store.MemoryStore()
    store.put("data/lang=de/a.jsonl", b'{"prompt": "x"}\n')
    with pytest.raises(InputUnreadableError, match="in folders below it") as refused:
        find_sources(["s3://below/data"])
    pattern = "s3://below/data/**/*.jsonl"
    assert f"'{pattern}'" in str(refused.value.hint)
    assert [source.name for source in find_sources([pattern])] == [
        "s3://below/data/lang=de/a.jsonl"
    ]
