"""Outputs in an object store that are not one Parquet file, and jobs of several processes there."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import begin, environment, prompts, stable, write_rows
from s3_server import Fault, Proxy

from batchgen.cli.command import main
from batchgen.errors import OutputHeldError
from batchgen.job.form import compression_of
from batchgen.job.locking.lease import LeasedLock
from batchgen.job.storage.layout import folder_of
from batchgen.job.stores import uploads
from batchgen.job.stores.remote_path import RemotePath
from batchgen.job.verbs.compare import compare

ROWS = 300


def run(*args: object) -> int:
    return main(["run", "--engine", "echo", *map(str, args)])


def lines_of(place: RemotePath) -> list[dict[str, object]]:
    packed = compression_of(place)
    with pa.input_stream(io.BytesIO(place.read_bytes()), compression=packed) as stream:
        return [json.loads(line) for line in stream.read().splitlines()]


def _writes_the_manifest(method: str, path: str) -> bool:
    return method == "PUT" and path.endswith("/_manifest.json")


def names_below(folder: RemotePath) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(("ending", "where"), [("jsonl", "beside"), ("jsonl.zst", "local")])
def test_lines_of_json_are_an_object_and_read_by_the_other_verbs(
    folder: RemotePath,
    tmp_path: Path,
    ending: str,
    where: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / f"out.{ending}"
    ckpt = () if where == "beside" else ("--checkpoint-dir", tmp_path / "work")
    assert run("-i", source, "-o", out, *ckpt) == 0
    assert [row["completion"] for row in lines_of(out)] == [row["prompt"] for row in prompts(ROWS)]
    capsys.readouterr()
    assert run("-i", source, "-o", out, *ckpt) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert run("-i", source, "-o", folder / "out.parquet") == 0
    assert main(["diff", str(out), str(folder / "out.parquet")]) == 0
    assert main(["export", str(out), "--format", "csv", "--to", str(tmp_path / "o.csv")]) == 0
    assert (tmp_path / "o.csv").read_text().count("prompt number") == 2 * ROWS


@pytest.mark.parametrize("flags", [("out.parquet", "--rows-per-file", 9), ("out.jsonl",)])
def test_an_output_in_a_store_becomes_a_folder_that_datasets_loads(
    folder: RemotePath, tmp_path: Path, flags: tuple[object, ...]
) -> None:
    datasets = pytest.importorskip("datasets")
    out, to = folder / str(flags[0]), tmp_path / "folder"
    assert run("-i", write_rows(folder / "in.jsonl", prompts(20)), "-o", out, *flags[1:]) == 0
    asked = ["export", str(out), "--format", "hf", "--to"]
    assert main([*asked, str(to)]) == 0
    rows = datasets.load_from_disk(str(to))
    assert rows["completion"][:] == [row["prompt"] for row in prompts(20)]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert main([*asked, f"{folder}/there"]) == 2
    assert main(["export", f"{folder}/gone", *asked[2:], str(tmp_path / "other")]) == 66


def test_a_crash_between_the_lines_and_the_manifest_writes_nothing_twice(
    folder: RemotePath, s3: Proxy
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.jsonl"
    manifest = "/out.jsonl.ckpt/manifest.json"
    written = {"lines": False}

    def after_the_lines(method: str, path: str) -> bool:
        written["lines"] |= method == "PUT" and path.endswith("/out.jsonl")
        return written["lines"] and method == "PUT" and path.endswith(manifest)

    s3.faults.append(Fault("denied", after_the_lines, 1e9))
    assert run("-i", source, "-o", out) == 73
    s3.faults.clear()
    assert len(lines_of(out)) == ROWS
    s3.requests.clear()
    assert run("-i", source, "-o", out) == 0
    out.write_bytes(out.read_bytes()[:-2] + b" \n")
    assert run("-i", source, "-o", out) == 4


def test_a_folder_counts_from_its_manifest_on_and_an_older_one_stays_until_then(
    folder: RemotePath, s3: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    asked = ("-i", source, "-o", out, "--rows-per-file", 120)
    s3.faults.append(Fault("denied", _writes_the_manifest, 1e9))
    assert run(*asked) == 73
    assert not [name for name in names_below(out) if name.startswith("part-")]
    s3.faults.clear()
    assert run(*asked) == 0
    first = names_below(out)
    names = ["_manifest.json", *(f"part-0000{number}-of-00003"[:19] for number in range(3))]
    assert [name[:19] for name in first] == names
    capsys.readouterr()
    assert run(*asked) == 0
    assert "nothing to do" in capsys.readouterr().err
    whole = folder / "whole.parquet"
    assert run("-i", source, "-o", whole) == 0
    assert compare(out, whole).same
    s3.faults.append(Fault("denied", lambda m, path: "/part-00002" in path and m == "PUT", 1e9))
    assert run(*asked, "--overwrite", "--temperature", 1) == 73
    assert names_below(out) == first
    assert compare(out, whole).same
    s3.faults.clear()
    assert run(*asked, "--overwrite", "--temperature", 1) == 0
    assert len(names_below(out)) == 4
    assert not set(names_below(out)) & set(first[1:])
    listed = json.loads((out / "_manifest.json").read_bytes())["files"]
    assert [file["name"] for file in listed] == names_below(out)[1:]


def test_a_folder_s_large_files_leave_no_upload_that_is_billed(
    folder: RemotePath, s3: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    monkeypatch.setattr(uploads, "ONE_REQUEST_BYTES", 1000)
    s3.faults.append(Fault("denied", lambda method, path: "partNumber" in path, 1, skip=1))
    assert run("-i", source, "-o", out, "--rows-per-file", 120) == 73
    assert uploads.abort_uploads(out) == 0
    assert run("-i", source, "-o", out, "--rows-per-file", 120) == 0


def test_processes_that_join_in_a_store_and_are_killed_write_each_row_once(
    folder: RemotePath, s3: Proxy, tmp_path: Path
) -> None:
    rows = 120
    source, out = write_rows(folder / "in.jsonl", prompts(rows)), folder / "out.parquet"
    whole = tmp_path / "whole.parquet"
    assert run("-i", write_rows(tmp_path / "in.jsonl", prompts(rows)), "-o", whole) == 0
    chosen = random.Random(7)
    slow = environment(BATCHGEN_FAULT="slow:at=engine.step,seconds=0.02,rows=4")

    def start() -> subprocess.Popen[bytes]:
        return begin("run", "-i", source, "-o", out, "--engine", "echo", "--join", "--join-pieces",
                     5, "--checkpoint-every", 40, env=slow, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL)  # fmt: skip

    known, working = s3.parts, [start(), start()]
    kills, deadline = 0, time.monotonic() + 120
    while not any(process.poll() == 0 for process in working):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        alive = [process for process in working if process.poll() is None]
        if not kills and len(alive) > 1 and s3.parts >= known + 2:
            chosen.choice(alive).send_signal(signal.SIGKILL)
            working.append(start())
            kills += 1
    for process in working:
        assert process.wait(60) in (0, -signal.SIGKILL)
    assert kills == 1
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(out.read_bytes())
    assert stable(copy).equals(stable(whole))
    assert pq.read_table(copy)["index"].to_pylist() == [*range(rows)]


def test_a_second_machine_with_a_folder_of_its_own_is_refused_and_a_silent_first_one_fenced(
    folder: RemotePath,
    s3: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    first = LeasedLock(tmp_path / "one", folder_of(out), out, "first")
    first.acquire()
    asked = ("-i", source, "-o", out, "--checkpoint-dir", tmp_path / "two")
    assert run(*asked) == 5
    assert "is being written by" in capsys.readouterr().err
    claim = folder_of(out) / "owners-lease" / "1.json"
    claim.write_bytes(json.dumps(json.loads(claim.read_bytes()) | {"host": "far"}).encode())
    assert run(*asked) == 5
    time.sleep(1.1)
    monkeypatch.setattr("batchgen.job.locking.lock.STALE_SECONDS", 1.0)
    assert run(*asked) == 0
    first.check()
    monkeypatch.setattr("batchgen.job.locking.lease._CHECK_SECONDS", 0.0)
    with pytest.raises(OutputHeldError, match="lost"):
        first.check()
    first.release()
