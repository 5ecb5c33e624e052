"""`strftime_now` tells one moment in a whole job: in all rows, shards and resumed runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, write_rows

CLOCK = "[{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}] {{ messages[0].content }}"
ROWS = [{"id": f"r{i}", "messages": [{"role": "user", "content": f"Say {i}"}]} for i in range(6)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.jsonl", ROWS)


def run(source: Path, out: Path, *more: object, template: str = CLOCK, code: int = 0) -> str:
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--chat-template", template, *more]
    result = batchgen(*args)
    assert result.returncode == code, result.stderr
    return result.stderr


def moments(out: Path) -> list[str]:
    return [prompt.split("]")[0].strip("[") for prompt in pq.read_table(out)["prompt"].to_pylist()]


def test_shards_begun_at_different_times_tell_one_moment(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    run(source, out, "--shard", "0/2")
    began = json.loads((Path(f"{out}.ckpt") / "manifest.json").read_text())["began"]
    time.sleep(0.01)
    said = run(source, out, "--shard", "1/2")
    assert began in said
    assert batchgen("merge", out).returncode == 0
    assert moments(out) == [began.replace("T", " ")] * len(ROWS)
    footer = json.loads(pq.read_schema(out).metadata[b"batchgen.manifest"])
    assert footer["began"] == began


def test_rows_added_later_tell_the_moment_at_which_the_job_began(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    run(source, out, "--limit", 3)
    (first,) = set(moments(out))
    run(source, out, "--incremental")
    assert moments(out) == [first] * len(ROWS)
    run(source, out, "--overwrite")
    (again,) = set(moments(out))
    assert again > first


def test_the_flag_sets_the_moment_and_another_is_another_job(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    said = run(source, out, "--template-time", "2024-07-26 10:00")
    assert "reads the time" not in said
    assert moments(out) == ["2024-07-26 10:00:00.000000"] * len(ROWS)
    run(source, out, "--template-time", "2024-07-26T10:00:00")
    refused = run(source, out, "--template-time", "2024-07-27", code=4)
    assert 'template_time: "2024-07-26T10:00:00" -> "2024-07-27T00:00:00"' in refused


def test_a_wrong_time_is_a_usage_error(source: Path, tmp_path: Path) -> None:
    assert "ISO 8601" in run(source, tmp_path / "o.parquet", "--template-time", "noon", code=2)


def test_nothing_is_said_where_the_template_reads_no_clock(source: Path, tmp_path: Path) -> None:
    said = run(source, tmp_path / "o.parquet", template="{{ messages[0].content }}")
    assert "the time" not in said
