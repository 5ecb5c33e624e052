"""`--retry` and `--incremental`: what is named is computed, everything else stays as it was."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import (
    batchgen,
    begin,
    output_rows,
    parts_of,
    prompts,
    stable,
    summary_of,
    wait_for_parts,
    write_rows,
)

from batchgen import InputSpec, JobSpec, Summary, run
from batchgen.errors import FingerprintMismatchError, InputUnreadableError, UsageError
from batchgen.job.ledger.reopen import _whole_rows


def echo(tmp_path: Path, *, limit: int | None = None, **spec: Any) -> Summary:
    given = InputSpec((str(tmp_path / "in.jsonl"),), limit=limit)
    settings: dict[str, Any] = {"engine": "echo", "quiet": True}
    return run(JobSpec(given, tmp_path / "out.parquet", **(settings | spec)))


def rows_of(tmp_path: Path) -> list[dict[str, Any]]:
    return output_rows(tmp_path / "out.parquet")


def fail_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: set[str]) -> None:
    """Write an input of which the engine refuses these rows, once."""
    from batchgen.engine.run.echo import EchoEngine
    from batchgen.errors import ErrorCode, RowError

    real = EchoEngine.add
    bad = {f"prompt number {name.removeprefix('row-')}".encode() for name in ids}

    def add(self: EchoEngine, request: Any) -> None:
        if bytes(list(request.prompt_token_ids)) in bad:
            raise RowError(ErrorCode.OOM, "no memory today")
        real(self, request)

    monkeypatch.setattr(EchoEngine, "add", add)


def test_names_of_the_model_are_of_the_job_and_a_retry_may_add_some(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    openai = {"method": "POST", "url": "/v1/chat/completions"}
    rows = [openai | {"custom_id": name, "body": body | {"model": name}} for name in "abc"]
    source = write_rows(tmp_path / "in.jsonl", rows)
    args = ["run", "-i", source, "-o", tmp_path / "out.parquet", "--engine", "echo"]
    args += ["--served-model-name", "a"]
    assert summary_of(batchgen(*args))["errors"] == 2
    refused = batchgen(*args, "--served-model-name", "b")
    assert refused.returncode == 4
    assert 'columns.served_model_names: ["a"] -> ["a", "b"]' in refused.stderr
    more = summary_of(batchgen(*args, "--served-model-name", "b", "--retry", "failed"))
    assert (more["errors"], more["computed"], more["reused"]) == (1, 2, 1)
    every = summary_of(batchgen(*args, "--ignore-model", "--retry", "failed"))
    assert (every["errors"], every["computed"], every["reused"]) == (0, 1, 2)
    assert batchgen(*args, "--retry", "failed").returncode == 4, "fewer names than before"


def test_only_failed_rows_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(
        tmp_path / "in.jsonl", [{**row, "n": 1 + i % 3} for i, row in enumerate(prompts(50))]
    )
    with monkeypatch.context() as patch:
        fail_some(tmp_path, patch, {"row-3", "row-4", "row-49"})
        assert echo(tmp_path).exit_code == 3
    before = rows_of(tmp_path)
    summary = echo(tmp_path, retry="failed")
    assert (summary.exit_code, summary.computed, summary.reused) == (0, 3, 47)
    after = rows_of(tmp_path)
    kept = [row for row in before if row["status"] == "ok"]
    assert [row for row in after if row["index"] not in (3, 4, 49)] == kept
    again = [row for row in after if row["index"] in (3, 4, 49)]
    assert [row["status"] for row in again] == ["ok"] * (1 + 2 + 2)
    assert {row["attempt"] for row in again} == {2}
    content = (tmp_path / "out.parquet").read_bytes()
    nothing = echo(tmp_path, retry="failed")
    assert (nothing.computed, nothing.exit_code) == (0, 0)
    assert (tmp_path / "out.parquet").read_bytes() == content
    assert not list((tmp_path / "out.parquet.ckpt" / "parts").iterdir())


def test_rows_that_fail_again_are_there_again(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [*prompts(9), "broken", {"id": "row-1", "prompt": "twice"}])
    assert echo(tmp_path).exit_code == 3
    before = stable(tmp_path / "out.parquet")
    summary = echo(tmp_path, retry="failed")
    assert (summary.exit_code, summary.computed, summary.errors) == (3, 2, 2)
    assert stable(tmp_path / "out.parquet").equals(before)


def test_truncated_rows_get_more_tokens_and_nothing_else_may_change(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * length} for length in (5, 20, 8, 30, 40)]
    write_rows(tmp_path / "in.jsonl", rows)
    echo(tmp_path, sampling={"max_tokens": 10})
    kept = [row for row in rows_of(tmp_path) if row["finish_reason"] == "stop"]
    more = {"max_tokens": 32}
    with pytest.raises(FingerprintMismatchError, match=r"sampling.max_tokens: 10 -> 32"):
        echo(tmp_path, sampling=more)
    with pytest.raises(FingerprintMismatchError, match=r"sampling.temperature"):
        echo(tmp_path, sampling={**more, "temperature": 1.0}, retry="truncated")
    with pytest.raises(FingerprintMismatchError, match=r"sampling.max_tokens: 10 -> 5"):
        echo(tmp_path, sampling={"max_tokens": 5}, retry="truncated")
    summary = echo(tmp_path, sampling=more, retry="truncated")
    assert (summary.computed, summary.length) == (3, 1)
    found = rows_of(tmp_path)
    assert [len(row["completion"]) for row in found] == [5, 20, 8, 30, 32]
    assert [row for row in found if row["index"] in (0, 2)] == kept
    assert echo(tmp_path, sampling=more).computed == 0


def test_more_tokens_for_an_output_without_truncated_rows_touch_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(3))
    echo(tmp_path, sampling={"max_tokens": 100})
    content = (tmp_path / "out.parquet").read_bytes()
    assert echo(tmp_path, sampling={"max_tokens": 200}, retry="truncated").computed == 0
    assert (tmp_path / "out.parquet").read_bytes() == content


def test_an_input_that_grew_gives_the_output_of_the_whole(tmp_path: Path) -> None:
    rows: list[dict[str, Any] | str] = [*prompts(30), {"prompt": "late", "new": "column"}, "bad"]
    write_rows(tmp_path / "in.jsonl", rows[:20])
    echo(tmp_path)
    before = rows_of(tmp_path)
    write_rows(tmp_path / "in.jsonl", rows)
    with pytest.raises(FingerprintMismatchError, match="the input has more rows than when"):
        echo(tmp_path)
    summary = echo(tmp_path, incremental=True, max_failures="1")
    assert (summary.computed, summary.reused, summary.rows) == (12, 20, 32)
    after = rows_of(tmp_path)
    assert [{k: v for k, v in row.items() if k != "new"} for row in after[:20]] == before
    found = stable(tmp_path / "out.parquet")
    (tmp_path / "out.parquet").unlink()
    echo(tmp_path, overwrite=True, max_failures="1")
    assert found.equals(stable(tmp_path / "out.parquet"))
    assert echo(tmp_path, incremental=True, max_failures="1").computed == 0


@pytest.mark.parametrize("limit", [None, 40])
def test_an_input_written_anew_with_the_same_rows_is_no_other_until_rows_come(
    tmp_path: Path, limit: int | None
) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(20))
    echo(tmp_path, limit=limit)
    text = source.read_text()
    for same in (text.rstrip("\n"), text.replace("\n", "\r\n"), "\n" + text + "\n"):
        source.write_text(same, newline="")
        for more in ({}, {"retry": "failed"}, {"incremental": True}):
            assert echo(tmp_path, limit=limit, **more).computed == 0
    write_rows(source, prompts(30))
    with pytest.raises(FingerprintMismatchError, match="the input has more rows than when 20 rows"):
        echo(tmp_path, limit=limit)
    assert echo(tmp_path, limit=limit, incremental=True).computed == 10


def test_an_input_that_changed_or_shrank_is_refused_with_where(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(20))
    echo(tmp_path)
    content = (tmp_path / "out.parquet").read_bytes()
    write_rows(source, prompts(12))
    with pytest.raises(FingerprintMismatchError, match=r"has 12 rows left of the 20 .*in\.jsonl"):
        echo(tmp_path, incremental=True)
    write_rows(source, [*prompts(7), {"prompt": "other"}, *prompts(30)[8:]])
    with pytest.raises(FingerprintMismatchError, match=r"first 20 rows .* changed, .*in\.jsonl"):
        echo(tmp_path, incremental=True)
    assert (tmp_path / "out.parquet").read_bytes() == content


def test_a_limit_that_grows_is_an_input_that_grows(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(20))
    echo(tmp_path, limit=5)
    assert echo(tmp_path, limit=8, incremental=True).computed == 3
    assert echo(tmp_path, incremental=True).computed == 12
    with pytest.raises(FingerprintMismatchError, match="asks for fewer"):
        echo(tmp_path, limit=5, incremental=True)


def test_a_retry_works_from_the_output_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    write_rows(tmp_path / "in.jsonl", prompts(10))
    with monkeypatch.context() as patch:
        fail_some(tmp_path, patch, {"row-2"})
        echo(tmp_path)
    shutil.rmtree(tmp_path / "out.parquet.ckpt")
    summary = echo(tmp_path, retry="failed")
    assert (summary.computed, summary.ok) == (1, 10)


def test_failed_rows_of_an_unfinished_job_are_computed_again(tmp_path: Path) -> None:
    """Row 5 fails in the first run, which is stopped; the second one is asked to retry it."""
    source, out = write_rows(tmp_path / "in.jsonl", prompts(400)), tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--checkpoint-every", 10]
    slow = "slow:at=engine.step,seconds=0.01,rows=2;refuse:id=row-5"
    process = begin(*args, fault=slow, heard=False)
    wait_for_parts(process, out, 6)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    last = batchgen(*args, "--retry", "failed")
    assert last.returncode == 0, last.stderr
    assert "--retry failed: 1 row is computed again" in last.stderr
    summary = summary_of(last)
    assert (summary["ok"], summary["errors"]) == (400, 0)
    assert summary["reused"] > 20


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_rows_mended_while_a_job_is_unfinished_are_computed_and_no_others(
    tmp_path: Path, name: str
) -> None:
    """It was killed; before it goes on somebody mends the rows that it found bad."""
    source, out, whole = tmp_path / name, tmp_path / "out.parquet", tmp_path / "whole.parquet"
    good = unmended(source, 9000)
    args = ["run", "-i", source, "--engine", "echo", "--checkpoint-every", 200, "-o"]
    killed = batchgen(*args, out, BATCHGEN_FAULT="kill:at=part.renamed,nth=6")
    assert killed.returncode == -signal.SIGKILL
    done = sum(pq.read_metadata(part).num_rows for part in parts_of(out))
    assert 300 < done < 8000
    write_mended(source, good)
    told = batchgen(*args, out)
    assert told.returncode == 4
    assert "3 rows that failed are another in the input now" in told.stderr
    assert "next: --retry failed computes such rows again" in told.stderr
    again = [*args, out, "--retry", "failed"]
    write_mended(source, [*good[:8], good[8] | {"prompt": "another"}, *good[9:]])
    refused = batchgen(*again)
    assert refused.returncode == 4, refused.stderr
    assert "rows of the input changed" in refused.stderr
    write_mended(source, good)
    for point in ("part.renamed", "manifest.rename", "manifest.renamed"):
        broken = batchgen(*again, BATCHGEN_FAULT=f"kill:at={point}")
        assert broken.returncode == -signal.SIGKILL, broken.stderr
    last = batchgen(*again)
    assert last.returncode == 0, last.stderr
    assert summary_of(last)["reused"] >= done - 3
    assert batchgen(*args, whole).returncode == 0
    assert stable(out).equals(stable(whole))


def test_a_retry_keeps_rows_whose_part_cannot_be_read_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_rows(tmp_path / "in.jsonl", prompts(400)), tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--checkpoint-every", 10]
    fault = "slow:at=engine.step,seconds=0.01,rows=2;kill:at=part.rename,nth=4;refuse:id=row-5"
    assert batchgen(*args, BATCHGEN_FAULT=fault).returncode == -signal.SIGKILL

    def away(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.read_metadata", away)
        with pytest.raises(InputUnreadableError, match="cannot read"):
            echo(tmp_path, retry="failed", checkpoint_every=10)
    last = batchgen(*args, "--retry", "failed")
    summary = summary_of(last)
    assert (summary["ok"], summary["errors"]) == (400, 0)
    assert summary["reused"] > 2


def test_killed_anywhere_a_retry_ends_as_if_unbroken(tmp_path: Path) -> None:
    rows = [{"prompt": "y" * (5 + i % 30), "id": i} for i in range(300)]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo"]
    batchgen(*args, "--max-tokens", 12)
    again = [*args, "--max-tokens", 40, "--retry", "truncated", "--checkpoint-every", 40]
    points = ["part.rename,nth=1", "part.renamed,nth=1", "manifest.rename,nth=1",
              "manifest.renamed,nth=1", "part.renamed,nth=3", "final.rename", "final.renamed",
              "manifest.renamed,nth=4"]  # fmt: skip
    for point in points:
        killed = batchgen(*again, BATCHGEN_FAULT=f"kill:at={point}")
        assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
        assert pq.read_metadata(out).num_rows == 300
    last = batchgen(*again)
    assert last.returncode == 0, last.stderr
    whole = tmp_path / "whole.parquet"
    batchgen("run", "-i", source, "-o", whole, "--engine", "echo", "--max-tokens", 40)
    assert stable(out).equals(stable(whole))
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert not list((tmp_path / "out.parquet.ckpt" / "parts").iterdir())


def unmended(path: Path, count: int = 60) -> list[dict[str, Any]]:
    """Write an input of which a few rows fail, each in its own way; how its rows should be."""
    good = prompts(count)
    broken: list[dict[str, Any] | str] = list(good)
    broken[3], broken[7] = "{broken", good[7] | {"temperature": -1}
    broken[50] = good[50] | {"prompt": ""}
    write_mended(path, broken)
    return good


def write_mended(path: Path, rows: list[Any]) -> None:
    if path.suffix == ".jsonl":
        write_rows(path, rows)
        return
    table = pa.Table.from_pylist([{} if isinstance(row, str) else row for row in rows], SCHEMA)
    pq.write_table(table, path, row_group_size=7)


SCHEMA = pa.schema([("id", "string"), ("prompt", "string"), ("tag", "string"),
                    ("temperature", "double")])  # fmt: skip


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_rows_that_failed_and_were_mended_in_the_input_are_computed_and_no_others(
    tmp_path: Path, name: str
) -> None:
    source, out, whole = tmp_path / name, tmp_path / "out.parquet", tmp_path / "whole.parquet"
    good = unmended(source)
    args = ["run", "-i", source, "--engine", "echo", "--checkpoint-every", 20, "-o"]
    assert batchgen(*args, out).returncode == 3
    write_mended(source, good)
    told = batchgen(*args, out)
    assert told.returncode == 4
    assert "3 rows that failed are another in the input now" in told.stderr
    assert "--retry failed" in told.stderr
    again = [*args, out, "--retry", "failed"]
    for point in ("part.renamed", "manifest.rename", "manifest.renamed", "final.rename"):
        killed = batchgen(*again, BATCHGEN_FAULT=f"kill:at={point}")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = batchgen(*again)
    assert last.returncode == 0, last.stderr
    assert summary_of(last)["reused"] >= 57
    assert batchgen(*args, whole).returncode == 0
    assert stable(out).equals(stable(whole))
    assert "nothing to do" in batchgen(*args, out).stderr


def test_a_change_of_any_other_row_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    good = unmended(source)
    echo(tmp_path)
    before = out.read_bytes()
    others = [good[5] | {"prompt": "another"}, good[5] | {"id": "another"}]
    taken = good[3] | {"id": "row-59"}
    for row, changed in [(5, others[0]), (5, others[1]), (3, taken)]:
        rows = [*good[:row], changed, *good[row + 1 :]]
        write_rows(source, rows)
        with pytest.raises(FingerprintMismatchError) as refused:
            echo(tmp_path, retry="failed")
        assert out.read_bytes() == before
    assert "the row mended at" in refused.value.message
    for rows in ([good[1], good[0], *good[2:]], good[:59]):
        write_rows(source, rows)
        with pytest.raises(FingerprintMismatchError, match=r"the first 60 rows|rows left"):
            echo(tmp_path, retry="failed")
    write_rows(source, good)
    (tmp_path / "out.parquet.ckpt" / "failed.json").unlink()  # an earlier version kept none
    with pytest.raises(FingerprintMismatchError, match="the first 60 rows of the input changed"):
        echo(tmp_path, retry="failed")
    assert out.read_bytes() == before


def test_rows_mended_one_after_the_other_and_an_input_that_grew_besides(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    good = unmended(source)
    rows: list[Any] = [json.loads(line) if line[1] != "b" else line for line in
                       source.read_text().splitlines()]  # fmt: skip
    echo(tmp_path, max_failures="100%")
    echo(tmp_path, retry="truncated", sampling={"max_tokens": 300})  # nothing was cut
    for row, failed in ((3, 3), (7, 2)):
        rows[row] = good[row]
        write_rows(source, rows)
        summary = echo(tmp_path, retry="failed", max_failures="100%")
        assert (summary.computed, summary.errors) == (failed, failed - 1)
    good = prompts(70)
    write_rows(source, good)
    with pytest.raises(FingerprintMismatchError, match="more rows came behind them") as told:
        echo(tmp_path, retry="failed")
    assert "--retry failed --incremental" in (told.value.hint or "")
    summary = echo(tmp_path, retry="failed", incremental=True)
    assert (summary.computed, summary.ok) == (11, 70)
    table = stable(tmp_path / "out.parquet")
    (tmp_path / "out.parquet").rename(tmp_path / "mended.parquet")
    echo(tmp_path)
    assert table.equals(stable(tmp_path / "out.parquet"))


def test_shards_compute_what_was_mended_of_a_merged_output(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    good = unmended(source)
    args = ["run", "-i", source, "-o", out, "--engine", "echo"]
    for shard in ("0/2", "1/2"):
        batchgen(*args, "--shard", shard)
    assert batchgen("merge", out).returncode == 3
    write_mended(source, good)
    computed = [
        summary_of(batchgen(*args, "--shard", shard, "--retry", "failed"))["computed"]
        for shard in ("1/2", "0/2")
    ]
    assert computed == [2, 1]
    assert batchgen("merge", out).returncode == 0
    assert [row["status"] for row in rows_of(tmp_path)] == ["ok"] * 60


@pytest.mark.parametrize("spec", [{"retry": "failed"}, {"incremental": True}])
def test_flags_that_contradict_each_other_are_refused(tmp_path: Path, spec: dict[str, Any]) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(2))
    with pytest.raises(UsageError, match="--overwrite discards them"):
        echo(tmp_path, overwrite=True, **spec)


def test_samples_of_a_row_stay_together_whatever_the_row_groups() -> None:
    index = [0, 0, 1, 2, 2, 2, 2, 3, 4, 4]
    tables = [pa.table({"index": index[start : start + 3]}) for start in range(0, 10, 3)]
    cut = [table["index"].to_pylist() for table in _whole_rows(iter(tables))]
    assert [row for rows in cut for row in rows] == index
    assert all(not set(one) & set(other) for one, other in itertools.pairwise(cut))


def test_the_footer_of_a_retried_output_names_its_job(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [*prompts(3), "bad"])
    echo(tmp_path)
    echo(tmp_path, retry="failed")
    footer = pq.read_metadata(tmp_path / "out.parquet").metadata[b"batchgen.manifest"]
    manifest = json.loads((tmp_path / "out.parquet.ckpt" / "manifest.json").read_text())
    assert json.loads(footer)["job_id"] == manifest["job_id"]
