"""Inputs and outputs on S3, over the wire, on a server that fails as stores do."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import begin, environment, prompts, stable, write_rows
from s3_server import KEYS, Fault, Proxy

from batchgen.cli.command import main
from batchgen.errors import FingerprintMismatchError, InputUnreadableError, OutputHeldError
from batchgen.job.locking.lock import OutputLock
from batchgen.job.stores import clients, uploads
from batchgen.job.stores.remote_path import RemotePath

pytest.importorskip("obstore")
pytest.importorskip("moto")
ROWS = 600


def run(*args: object) -> int:
    return main(["run", "--engine", "echo", "--max-tokens", "1000", *map(str, args)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The same job's output on a disk."""
    disk = tmp_path_factory.mktemp("whole")
    source = write_rows(disk / "in.jsonl", prompts(ROWS))
    assert run("-i", source, "-o", disk / "out.parquet") == 0
    return stable(disk / "out.parquet")


def uploads_of(folder: RemotePath) -> list[str]:
    s3 = clients.s3_session().client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    found = s3.list_multipart_uploads(Bucket="bucket").get("Uploads", [])
    return [upload["Key"] for upload in found if upload["Key"].startswith(folder.key)]


def test_a_job_from_s3_to_s3_is_the_disk_s_and_its_rerun_does_nothing(
    folder: RemotePath, s3: Proxy, whole: pa.Table, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    assert run("-i", source, "-o", out) == 0
    assert stable(out).equals(whole)
    left = {path.name for path in (folder / "out.parquet.ckpt").walk_files()}
    assert left == {"manifest.json", "1.json"}
    s3.requests.clear()
    capsys.readouterr()
    assert run("-i", source, "-o", out) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert not {"PUT", "POST", "DELETE"} & s3.requests.keys()
    assert main(["status", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "complete"


@pytest.mark.parametrize("where", ["beside", "local"])
def test_shards_on_s3_are_merged(
    folder: RemotePath, whole: pa.Table, tmp_path: Path, where: str
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    ckpt = () if where == "beside" else ("--checkpoint-dir", tmp_path / "work")
    for shard in ("1/2", "0/2"):
        assert run("-i", source, "-o", out, "--shard", shard, *ckpt) == 0
        assert not out.exists()
    assert main(["merge", *map(str, (out, *ckpt))]) == 0
    assert stable(out).equals(whole)


def test_columns_of_parquet_are_read_by_ranges_and_only_those_that_are_needed(
    folder: RemotePath, s3: Proxy
) -> None:
    noise = [os.urandom(4000) for _ in range(ROWS)]
    table = pa.table({"prompt": [f"p{i}" for i in range(ROWS)], "noise": noise})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=ROWS // 3)
    (folder / "in.parquet").write_bytes(sink.getvalue())
    read: list[int] = []
    before = RemotePath.read_range

    def counted(self: RemotePath, start: int, stop: int, *rest: Any) -> bytes:
        read.append(stop - start)
        return before(self, start, stop, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemotePath, "read_range", counted)
        out = folder / "out.parquet"
        args = ("-i", folder / "*.parquet", "-o", out, "--keep-columns", "none")
        assert run(*args) == 0
    assert stable(out)["completion"].to_pylist() == table["prompt"].to_pylist()
    assert sum(read) < len(sink.getvalue()) / 4


@pytest.mark.parametrize(
    ("kind", "times"), [("busy", 25), ("reset", 10), ("lost", 10), ("slow", 5)]
)
def test_passing_faults_cost_no_row_and_no_word(
    folder: RemotePath, s3: Proxy, whole: pa.Table, kind: str, times: int
) -> None:
    """Any request may meet them; `lost`: it was done, and the answer did not come."""
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    chosen = random.Random(3)
    s3.faults.append(Fault(kind, lambda method, path: chosen.random() < 0.2, times))
    assert run("-i", source, "-o", out, "--checkpoint-every", 200) == 0
    assert s3.faults[0].times < times
    s3.faults.clear()
    assert stable(out).equals(whole)


def _writes_the_output(method: str, path: str) -> bool:
    return method in ("PUT", "POST") and path.partition("?")[0].endswith("/out.parquet")


def test_listings_that_lag_lose_nothing_and_give_no_number_twice(
    folder: RemotePath, s3: Proxy, whole: pa.Table
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    s3.faults.append(Fault("denied", _writes_the_output, 1e9))
    assert run("-i", source, "-o", out, "--checkpoint-every", 200) == 73
    s3.faults[:] = [Fault("stale", lambda method, path: method == "LIST", 1e9)]
    assert run("-i", source, "-o", out, "--checkpoint-every", 200) == 0
    s3.faults.clear()
    assert stable(out).equals(whole)


@pytest.mark.parametrize(
    ("kind", "said", "side", "code"),
    [("expired", "credentials have expired", "in.jsonl", 66),
     ("expired", "credentials have expired", "parts/", 73),
     ("denied", "access is denied", "out.parquet", 73)],
)  # fmt: skip
def test_credentials_that_fail_are_one_line_and_cost_nothing(
    folder: RemotePath, s3: Proxy, whole: pa.Table, kind: str, said: str, side: str, code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    s3.faults.append(Fault(kind, lambda method, path: side in path, 1e9))
    assert run("-i", source, "-o", out) == code
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not [word for word in (*KEYS.values(), "Signature", "X-Amz") if word in told]
    s3.faults.clear()
    assert run("-i", source, "-o", out) == 0
    assert stable(out).equals(whole)


def test_a_bucket_or_an_object_that_is_not_there_is_told_at_once(
    folder: RemotePath, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(folder / "in.jsonl", prompts(3))
    assert run("-i", source, "-o", "s3://no-such-bucket/out.parquet") == 73
    assert "there is no such bucket" in capsys.readouterr().err
    assert run("-i", folder / "nothing.jsonl", "-o", folder / "out.parquet") == 66
    assert "there is no such object" in capsys.readouterr().err
    assert run("-i", source, "-o", source) != 0
    assert run("-i", folder / "*.jsonl", "-o", folder / "out.parquet") == 0


def test_an_input_that_changes_while_it_is_read_is_refused(
    folder: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchgen.job.stores.remote_input import object_input

    source = write_rows(folder / "in.jsonl", prompts(ROWS))
    found = object_input(source)
    assert found.open().readline() == source.read_bytes().splitlines(keepends=True)[0]
    write_rows(source, prompts(ROWS + 1))
    with pytest.raises(FingerprintMismatchError, match=r"in\.jsonl changed while it was read"):
        found.open().read()
    source.unlink()
    with pytest.raises(InputUnreadableError, match="not there"):
        found.ranges().read(10)


def test_an_input_that_changed_between_two_runs_is_refused_and_overwritten_on_demand(
    folder: RemotePath, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    assert run("-i", source, "-o", out) == 0
    before = out.read_bytes()
    source.write_bytes(source.read_bytes().replace(b'prompt number 7"', b'another prompt"'))
    assert run("-i", source, "-o", out) == 4
    assert "of the input changed" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert run("-i", source, "-o", out, "--overwrite") == 0
    assert "another prompt" in stable(out)["completion"].to_pylist()


def test_a_writer_that_was_paused_replaces_nothing_of_its_successor(folder: RemotePath) -> None:
    """Past its last look at the claim it goes to sleep; somebody else takes over meanwhile."""
    manifest = folder / "manifest.json"
    manifest.write_bytes(b"first")
    from batchgen.job.stores.files import read_current, write_atomic

    lock = OutputLock(folder, "out", "paused")
    lock.acquire()
    assert read_current(manifest) == b"first"
    write_atomic(manifest, b"second", "manifest", lock.check)

    def look_and_sleep() -> None:
        lock.check()
        RemotePath.write_bytes(manifest, b"of the successor")

    with pytest.raises(OutputHeldError, match="replaced"):
        write_atomic(manifest, b"late", "manifest", look_and_sleep)
    assert manifest.read_bytes() == b"of the successor"
    lock.release()


def test_a_silent_owner_elsewhere_loses_by_the_store_s_clock(
    folder: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = OutputLock(folder, "out", "first")
    first.acquire()
    claim = folder / "owners" / "1.json"
    claim.write_bytes(json.dumps(json.loads(claim.read_bytes()) | {"host": "far"}).encode())
    with pytest.raises(OutputHeldError, match="on far"):
        OutputLock(folder, "out", "second").acquire()
    time.sleep(1.1)
    monkeypatch.setattr("batchgen.job.locking.lock.STALE_SECONDS", 1.0)
    second = OutputLock(folder, "out", "second")
    second.acquire()
    second.check()
    with pytest.raises(OutputHeldError, match="lost"):
        first.check()
    first.release()
    second.release()


def test_a_large_output_is_sent_in_parts_and_a_broken_upload_leaves_nothing_billed(
    folder: RemotePath, s3: Proxy, whole: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    monkeypatch.setattr(uploads, "ONE_REQUEST_BYTES", 1000)
    s3.faults.append(Fault("denied", lambda method, path: "partNumber" in path, 1))
    assert run("-i", source, "-o", out) == 73
    assert not out.exists()
    assert uploads_of(folder) == []
    assert run("-i", source, "-o", out) == 0
    assert stable(out).equals(whole)
    # A killed process aborts nothing: its successor does.
    boto = clients.s3_session().client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    boto.create_multipart_upload(Bucket="bucket", Key=out.key)
    boto.create_multipart_upload(Bucket="bucket", Key=out.key + ".other")
    assert run("-i", source, "-o", out, "--overwrite") == 0
    assert uploads_of(folder) == [out.key + ".other"]


def test_kills_and_faults_at_random_end_in_the_unbroken_output(
    folder: RemotePath, s3: Proxy, whole: pa.Table
) -> None:
    """kill -9 of real processes, while one request in fifty fails in one of five ways."""
    source, out = write_rows(folder / "in.jsonl", prompts(ROWS)), folder / "out.parquet"
    chosen = random.Random(11)
    kinds = ("busy", "reset", "lost", "slow", "stale")
    s3.faults += [Fault(kind, lambda m, p: chosen.random() < 0.01, 1e9) for kind in kinds]
    command = ("run", "-i", source, "-o", out, "--engine", "echo", "--max-tokens",
                               1000, "--checkpoint-every", 100)  # fmt: skip
    slow = environment(BATCHGEN_FAULT="slow:at=engine.step,seconds=0.02,rows=3")
    kills = 0
    while kills < 2:
        child = begin(*command, env=slow, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)  # fmt: skip
        known, deadline = s3.parts, time.monotonic() + 60
        while child.poll() is None and s3.parts < known + 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(chosen.uniform(0.0, 0.4))
        if child.poll() is not None:
            break
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        kills += 1
    assert kills
    s3.faults.clear()
    assert run("-i", source, "-o", out) == 0
    assert stable(out).equals(whole)
