"""Disks that fill up, folders that cannot be written, inputs that vanish or are damaged: a clear
error, its exit code, and nothing lost once the cause is mended. With real file systems where the
test may mount them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import (
    batchgen,
    batchgen_command,
    begin,
    environment,
    prompts,
    stable,
    summary_of,
    wait_for_parts,
    write_rows,
)

NEXT = "  next: free space or give write permission there, then run the same command again"
SLOW = "slow:at=engine.step,seconds=0.005,rows=8"


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; the test is skipped where none may be mounted."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        timeout=120,
    )
    if made.returncode:
        pytest.skip(f"mounting is not permitted here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        while os.path.ismount(folder):  # a test may have put one over the other
            subprocess.run(["umount", "-l", str(folder)], check=True, timeout=120)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, timeout=120)


def noise(count: int) -> list[dict[str, str]]:
    """Rows that do not compress."""
    return [{"id": f"row-{i}", "prompt": os.urandom(300).hex()} for i in range(count)]


def args_of(source: Path, out: Path) -> list[object]:
    return ["run", "-i", source, "-o", out, "--engine", "echo", "--max-tokens", 1000,
            "--checkpoint-every", 100]  # fmt: skip


def whole_of(tmp_path: Path, source: Path) -> pa.Table:
    whole = tmp_path / "whole.parquet"
    assert batchgen(*args_of(source, whole)).returncode == 0
    return stable(whole)


def no_temporary_file(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize("size", ["300k", "900k", "1300k"])
def test_a_full_disk_ends_in_73_and_costs_nothing_once_there_is_room(
    tmp_path: Path, size: str
) -> None:
    """The sizes fill up at the first part, in the middle, and in the final merge."""
    source = write_rows(tmp_path / "in.jsonl", noise(1000))
    with tmpfs(tmp_path / "disk", size) as disk:
        out = disk / "out.parquet"
        full = batchgen(*args_of(source, out), BATCHGEN_FAULT=SLOW)
        assert full.returncode == 73, full.stderr
        assert f"{disk}/out.parquet" in full.stderr
        assert "No space left on device" in full.stderr
        assert NEXT in full.stderr
        assert not out.exists()
        assert no_temporary_file(disk)
        kept = summary_of(full)["rows"]
        remount(disk, "size=20m")
        again = batchgen(*args_of(source, out))
        assert again.returncode == 0, again.stderr
        assert summary_of(again)["reused"] == kept
        assert no_temporary_file(disk)
        assert stable(out).equals(whole_of(tmp_path, source))


def test_a_disk_that_is_full_at_the_start_is_said_at_once(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(10))
    with tmpfs(tmp_path / "disk", "64k") as disk:
        filler = disk / "filler"
        with suppress(OSError):
            filler.write_bytes(bytes(64 << 10))
        full = batchgen(*args_of(source, disk / "out.parquet"))
        assert full.returncode == 73, full.stderr
        assert "No space left on device" in full.stderr
        filler.unlink()
        remount(disk, "size=20m")
        assert batchgen(*args_of(source, disk / "out.parquet")).returncode == 0


def test_a_limit_on_file_sizes_ends_in_73_and_costs_nothing(tmp_path: Path) -> None:
    """Parts fit, the output does not: the merge fails, every row is kept."""
    source, out = write_rows(tmp_path / "in.jsonl", noise(1000)), tmp_path / "out.parquet"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    result = subprocess.run(
        batchgen_command(*args_of(source, out)),
        env=environment(BATCHGEN_FAULT=SLOW),
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=120,
    )
    assert result.returncode == 73, result.stderr
    assert f"cannot write the output {out}: File too large" in result.stderr
    assert summary_of(result)["rows"] == 1000
    again = summary_of(batchgen(*args_of(source, out)))
    assert (again["reused"], again["computed"]) == (1000, 0)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(10))
    with tmpfs(tmp_path / "disk", "1m") as disk:
        remount(disk, "ro")
        out = disk / "out.parquet"
        refused = batchgen(*args_of(source, out))
        assert refused.returncode == 73
        assert f"cannot write the folder {out}.ckpt: Read-only file system" in refused.stderr
        assert refused.stdout == ""
        elsewhere = tmp_path / "ckpt"
        late = batchgen(*args_of(source, out), "--checkpoint-dir", elsewhere)
        assert late.returncode == 73
        assert f"cannot write the folder {disk}" in late.stderr
        assert not list(elsewhere.glob("parts/*"))
        remount(disk, "rw")
        last = batchgen(*args_of(source, out), "--checkpoint-dir", elsewhere)
        assert last.returncode == 0, last.stderr


def test_a_folder_that_becomes_read_only_costs_nothing(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(400))
    with tmpfs(tmp_path / "disk", "20m") as disk:
        out = disk / "out.parquet"
        process = begin(*args_of(source, out), fault=SLOW.replace("rows=8", "rows=1"))
        assert wait_for_parts(process, out)
        remount_when_nobody_writes(disk)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 73, stderr
        assert "Read-only file system" in stderr
        remount(disk, "rw")
        again = batchgen(*args_of(source, out))
        assert again.returncode == 0, again.stderr
        assert summary_of(again)["reused"] >= 50
        assert stable(out).equals(whole_of(tmp_path, source))


def remount_when_nobody_writes(disk: Path) -> None:
    """A file system turns read-only only while no file is open for writing: force it by a bind."""
    subprocess.run(["mount", "-o", "bind", str(disk), str(disk)], check=True, timeout=120)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True, timeout=120)


def test_the_checkpoint_folder_may_lie_on_another_file_system(tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.jsonl", prompts(300)), tmp_path / "out.parquet"
    with tmpfs(tmp_path / "disk", "20m") as disk:
        args = [*args_of(source, out), "--checkpoint-dir", disk / "work"]
        killed = batchgen(*args, BATCHGEN_FAULT="kill:at=final.rename")
        assert killed.returncode == -signal.SIGKILL
        last = batchgen(*args)
        assert last.returncode == 0, last.stderr
        assert summary_of(last)["reused"] == 300
        assert stable(out).equals(whole_of(tmp_path, source))
        assert no_temporary_file(tmp_path)


def test_an_input_that_vanishes_ends_in_66_and_costs_nothing(tmp_path: Path) -> None:
    """The second of two files is gone when the first one is read."""
    first = write_rows(tmp_path / "a.jsonl", prompts(300))
    second = write_rows(tmp_path / "b.jsonl", [{"id": f"b{i}", "prompt": "b"} for i in range(50)])
    out = tmp_path / "out.parquet"
    args = ["run", "-i", tmp_path / "?.jsonl", "-o", out, "--engine", "echo"]
    content = second.read_bytes()
    fault = "stall:at=manifest.renamed,seconds=1"
    fault += ";slow:at=engine.load,seconds=2"
    process = begin(*args, "--max-num-seqs", 1, fault=fault)
    while not (tmp_path / "out.parquet.ckpt" / "owners").exists():
        assert process.poll() is None
        time.sleep(0.01)
    second.unlink()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 66, stderr
    assert f"input {second}" in stderr
    assert "No such file or directory" in stderr
    refused = batchgen("run", "-i", first, "-i", second, "-o", out, "--engine", "echo")
    assert refused.returncode == 66
    assert f"input {second} does not exist" in refused.stderr
    second.write_bytes(content)
    last = batchgen(*args)
    assert (last.returncode, summary_of(last)["rows"]) == (0, 350), last.stderr


def test_parquet_damaged_in_the_middle_ends_in_66_and_keeps_what_came_before(
    tmp_path: Path,
) -> None:
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    table = pa.table({"prompt": [f"{i} " * 50 for i in range(10_000)]})
    pq.write_table(table, source, row_group_size=500, compression="none", use_dictionary=False)
    good = source.read_bytes()
    middle = len(good) // 2
    source.write_bytes(good[:middle] + os.urandom(20_000) + good[middle + 20_000 :])
    os.utime(source, (1, 1))
    damaged = batchgen(*args_of(source, out))
    assert damaged.returncode == 66, damaged.stderr
    assert f"input {source} is damaged after row " in damaged.stderr
    assert "replace it with a whole copy" in damaged.stderr
    kept = summary_of(damaged)["rows"]
    assert kept > 3000
    source.write_bytes(good)
    again = batchgen(*args_of(source, out))
    assert (again.returncode, summary_of(again)["reused"]) == (0, kept), again.stderr


def test_a_line_of_100_mb_is_one_bad_row(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    with source.open("w") as file:
        file.write(json.dumps({"prompt": "before"}) + "\n")
        file.write('{"prompt":"' + "x" * (100 << 20) + '"}\n')
        file.write(json.dumps({"prompt": "after"}) + "\n")
    result = batchgen("run", "-i", source, "-o", out, "--engine", "echo")
    assert result.returncode == 3
    rows = pq.read_table(out).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert rows[1]["error_code"] == "invalid_json"
    assert "longer than 64 MiB" in rows[1]["error_message"]
    assert summary_of(result)["peak_memory_bytes"] < 1 << 30


def test_overwrite_discards_what_it_began_with_another_input(tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.jsonl", prompts(30)), tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--overwrite"]
    assert batchgen(*args, BATCHGEN_FAULT="kill:at=final.rename").returncode < 0
    write_rows(source, [{"prompt": f"another {i}"} for i in range(40)])
    refused = batchgen(*args[:-1])
    assert refused.returncode == 4
    assert "the first 30 rows of the input changed" in refused.stderr
    again = batchgen(*args)
    assert again.returncode == 0, again.stderr
    assert "what was begun is discarded (--overwrite)" in again.stderr
    assert summary_of(again)["computed"] == 40
    assert pq.read_table(out)["completion"].to_pylist()[0] == "another 0"
