"""`--retry` and `--incremental` with `--shard`: merged, the shards equal a run of all rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import begin, prompts, stable, write_rows

from batchgen import InputSpec, JobSpec, Summary, run
from batchgen.errors import FingerprintMismatchError, InputUnreadableError, OutputHeldError
from batchgen.job.shard import Shard
from batchgen.job.verbs.merge_job import merge_output

HURT = "refuse:id=row-5,row-6,row-17"


def echo(folder: Path, shard: str | None = None, name: str = "out.parquet", **spec: Any) -> Summary:
    given = InputSpec((str(folder / "in.jsonl"),))
    index, count = map(int, shard.split("/")) if shard else (0, 0)
    settings: dict[str, Any] = {"engine": "echo", "quiet": True, "max_failures": "100%"}
    settings["shard"] = Shard(index, count) if shard else None
    return run(JobSpec(given, folder / name, **(settings | spec)))


def shards(folder: Path, count: int, **spec: Any) -> list[int]:
    """Rows that each of so many shards computes, one after the other."""
    return [echo(folder, f"{i}/{count}", **spec).computed for i in range(count)]


def merged(folder: Path) -> pa.Table:
    out = folder / "out.parquet"
    merge_output(out, Path(f"{out}.ckpt"))
    return stable(out)


def unsharded(folder: Path, **spec: Any) -> pa.Table:
    """What a run of all rows that never met a fault gives."""
    echo(folder, name="whole.parquet", **spec)
    return stable(folder / "whole.parquet")


@pytest.fixture
def hurt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shards of 40 rows, three of which were refused; not merged."""
    rows = [{**row, "n": 1 + i % 3} for i, row in enumerate(prompts(40))]
    write_rows(tmp_path / "in.jsonl", rows)
    with monkeypatch.context() as patch:
        patch.setenv("BATCHGEN_FAULT", HURT)
        assert shards(tmp_path, 2) == [20, 20]
    return tmp_path


@pytest.mark.parametrize("merge_first", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_failed_rows_of_shards_are_computed_again_by_shards(
    hurt: Path, count: int, merge_first: bool
) -> None:
    if merge_first:
        assert merged(hurt)["status"].to_pylist().count("error") == 3
    assert sum(shards(hurt, count, retry="failed")) == 3
    assert sum(shards(hurt, count, retry="failed")) == 0, "the same again is a no-op"
    assert merged(hurt).equals(unsharded(hurt))
    attempts = pq.read_table(hurt / "out.parquet").select(["index", "attempt"]).to_pylist()
    assert {row["index"] for row in attempts if row["attempt"] > 1} == {5, 6, 17}
    assert sum(shards(hurt, 2, retry="failed")) == 0


def test_truncated_rows_of_shards_get_more_tokens(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "x" * length} for length in range(5, 45)])
    shards(tmp_path, 2, sampling={"max_tokens": 10})
    merged(tmp_path)
    more: dict[str, Any] = {"sampling": {"max_tokens": 60}}
    with pytest.raises(FingerprintMismatchError, match=r"sampling.max_tokens: 10 -> 60"):
        echo(tmp_path, "0/2", **more)
    assert sum(shards(tmp_path, 4, retry="truncated", **more)) == 34
    assert merged(tmp_path).equals(unsharded(tmp_path, **more))


@pytest.mark.parametrize("merge_first", [False, True])
def test_an_input_that_grew_is_shared_by_shards(tmp_path: Path, merge_first: bool) -> None:
    rows: list[Any] = [*prompts(50), "broken"]
    write_rows(tmp_path / "in.jsonl", rows[:30])
    shards(tmp_path, 2)
    if merge_first:
        merged(tmp_path)
    write_rows(tmp_path / "in.jsonl", rows)
    with pytest.raises(FingerprintMismatchError) as refused:
        echo(tmp_path, "0/2")
    assert (refused.value.hint or "").startswith("--incremental computes the rows that came since")
    assert sum(shards(tmp_path, 2, incremental=True)) == 21
    assert merged(tmp_path).equals(unsharded(tmp_path))


def test_an_input_that_grew_between_two_shards_is_mended_by_incremental(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(30))
    echo(tmp_path, "0/2")
    write_rows(tmp_path / "in.jsonl", prompts(41))
    assert echo(tmp_path, "1/2").computed == 20
    with pytest.raises(
        FingerprintMismatchError, match="the sizes of their files differ"
    ) as refused:
        merged(tmp_path)
    assert "--incremental" in (refused.value.hint or "")
    echo(tmp_path, "2/5", incremental=True)
    with pytest.raises(InputUnreadableError, match=r"5 of 41 rows missing: 30, 34, 36, 38, 40"):
        merged(tmp_path)
    assert shards(tmp_path, 2, incremental=True) == [5, 0]
    assert merged(tmp_path).equals(unsharded(tmp_path))


def test_a_changed_input_is_refused_by_every_shard(hurt: Path) -> None:
    write_rows(hurt / "in.jsonl", [{"id": "row-0", "prompt": "other"}, *prompts(60)[1:]])
    before = sorted(Path(f"{hurt / 'out.parquet'}.ckpt").glob("parts/*"))
    for spec in ({"incremental": True}, {"retry": "failed", "incremental": True}):
        with pytest.raises(FingerprintMismatchError, match="changed"):
            echo(hurt, "0/2", **spec)
    assert before
    shutil.rmtree(f"{hurt / 'out.parquet'}.ckpt")


def test_an_array_asked_to_retry_may_start_all_at_once(hurt: Path, tmp_path: Path) -> None:
    """Also where the job is new: rows that fail in a first shard are not taken up by a second."""
    slow = "slow:at=engine.step,seconds=0.05,rows=1"
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    write_rows(fresh / "in.jsonl", [*prompts(20), "broken", "broken", "broken"])
    for folder in (hurt, fresh):
        common = ["-i", folder / "in.jsonl", "-o", folder / "out.parquet", "--engine", "echo", "-q"]
        args = ["run", *common, "--max-failures", "100%", "--retry", "failed"]
        array = [begin(*args, "--shard", f"{i}/3", fault=slow, heard=False) for i in range(3)]
        assert [process.wait(60) for process in array] == [0, 0, 0]
        assert merged(folder).equals(unsharded(folder))


def test_a_shard_that_works_on_is_not_taken_up_again(hurt: Path) -> None:
    from batchgen.job.locking.lock import OutputLock
    from batchgen.job.storage.layout import Layout

    work = Layout(Path(f"{hurt / 'out.parquet'}.ckpt"), hurt / "out.parquet", Shard(1, 2)).work
    other = OutputLock(work, "shard 1/2", "other")
    other.acquire()
    with pytest.raises(OutputHeldError, match="is being written by"):
        echo(hurt, "0/2", retry="failed")
    other.release()
    assert sum(shards(hurt, 2, retry="failed")) == 3
