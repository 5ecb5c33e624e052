"""Whole jobs in this process, with the engine that answers at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, prompts, stable, write_rows
from tokenizer_folders import make

from batchgen import InputSpec, JobSpec, Summary, run
from batchgen.errors import (
    FingerprintMismatchError,
    InputUnreadableError,
    OutputUnwritableError,
    UsageError,
)
from batchgen.job.stores import faults

Echo = Callable[..., Summary]


@pytest.fixture
def echo(tmp_path: Path) -> Echo:
    """Run rows of `in.jsonl` into `out.parquet`; keyword arguments go to the specs."""

    def run_echo(*inputs: Path, limit: int | None = None, **spec: object) -> Summary:
        given = InputSpec(tuple(map(str, inputs or (tmp_path / "in.jsonl",))), limit=limit)
        out = tmp_path / "out.parquet"
        return run(JobSpec(given, out, **{"engine": "echo", "quiet": True, **spec}))  # type: ignore[arg-type]

    return run_echo


def test_every_row_comes_out_in_input_order(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(1500))
    summary = echo()
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["index"].to_pylist() == list(range(1500))
    assert table["completion"].to_pylist() == [row["prompt"] for row in prompts(1500)]
    assert table["tag"].to_pylist() == [row["tag"] for row in prompts(1500)]
    assert (summary.rows, summary.ok, summary.computed, summary.exit_code) == (1500, 1500, 1500, 0)


def test_a_bad_row_becomes_an_error_row_in_its_place(tmp_path: Path, echo: Echo) -> None:
    rows = [
        *prompts(3),
        "not json",
        {"id": "row-0", "prompt": "again"},
        {"prompt": ""},
        {"id": "x"},
    ]
    write_rows(tmp_path / "in.jsonl", rows)
    summary = echo(max_failures="4")
    table = pq.read_table(tmp_path / "out.parquet")
    codes = table["error_code"].to_pylist()
    assert codes[3:] == ["invalid_json", "duplicate_id", "empty_prompt", "missing_prompt"]
    assert table["status"].to_pylist() == ["ok"] * 3 + ["error"] * 4
    assert table["prompt"].to_pylist()[:3] == [row["prompt"] for row in prompts(3)]
    assert (summary.ok, summary.errors, summary.exit_code) == (3, 4, 0)


def test_too_many_failures_end_in_exit_code_3_with_the_output_written(
    tmp_path: Path, echo: Echo
) -> None:
    write_rows(tmp_path / "in.jsonl", [*prompts(9), "broken"])
    assert echo().exit_code == 3
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 10
    assert echo(max_failures="10%").exit_code == 0
    assert echo(max_failures="9.9%").exit_code == 3


def test_a_finished_job_is_a_no_op(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", [*prompts(20), "broken"])
    first = echo()
    content = (tmp_path / "out.parquet").read_bytes()
    second = echo()
    assert (tmp_path / "out.parquet").read_bytes() == content
    assert (second.computed, second.reused, second.rows) == (0, 21, 21)
    assert (second.ok, second.errors, second.exit_code) == (first.ok, first.errors, 3)
    assert (first.device, second.device) == ("cpu", "cpu")
    manifest = tmp_path / "out.parquet.ckpt" / "manifest.json"
    recorded = json.loads(manifest.read_text())
    recorded["facts"]["device"] = "cuda:0 (H100)"
    manifest.write_text(json.dumps(recorded))
    assert echo().device == "cuda:0 (H100)"


def test_an_empty_input_gives_an_empty_output_with_every_column(
    tmp_path: Path, echo: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "in.jsonl", [])
    assert echo(quiet=False).exit_code == 0
    said = capsys.readouterr().err
    assert said.startswith("batchgen: the input has no rows: nothing was generated (is it ")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 0
    assert table.column_names[:4] == ["index", "sample", "id", "status"]


def test_rows_that_come_into_an_empty_input_are_answered(tmp_path: Path, echo: Echo) -> None:
    for incremental in (False, True):
        write_rows(tmp_path / "in.jsonl", [])
        echo(overwrite=True)
        write_rows(tmp_path / "in.jsonl", prompts(3))
        assert (echo(incremental=incremental).computed, echo().rows) == (3, 3)


def test_what_lies_beside_a_job_is_never_replaced(tmp_path: Path, echo: Echo) -> None:
    """A summary or metrics in the place of input or output; a checkpoint folder that is no job."""
    source, out = write_rows(tmp_path / "in.jsonl", prompts(3)), tmp_path / "out.parquet"
    (tmp_path / "link").symlink_to(source)
    for beside in (source, out, tmp_path / "link", tmp_path / "no" / "where.json"):
        with pytest.raises(OutputUnwritableError, match=r"the summary .* (is the|its folder)"):
            echo(summary=beside)
        with pytest.raises(OutputUnwritableError, match=r"the metrics .* (is the|its folder)"):
            echo(metrics_file=beside)
    project = tmp_path / "project"
    for name in ("shards/mine.txt", "damaged/mine.txt", "manifest.json"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("precious")
        with pytest.raises(OutputUnwritableError, match="is no checkpoint folder, and holds"):
            echo(checkpoint_dir=project)
        assert (project / name).read_text() == "precious"
        (project / name).unlink()
    assert echo(checkpoint_dir=tmp_path / "ckpt").exit_code == 0
    (tmp_path / "ckpt" / "shards").mkdir()
    (tmp_path / "ckpt" / "shards" / "mine.txt").write_text("precious")
    assert echo(checkpoint_dir=tmp_path / "ckpt", overwrite=True).computed == 3
    assert (tmp_path / "ckpt" / "shards" / "mine.txt").read_text() == "precious"


def test_a_file_that_took_the_outputs_name_meanwhile_stays(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(5))
    out = tmp_path / "out.parquet"

    def take(point: str, path: Path | None) -> None:
        if point == "final.fsync":
            out.write_text("precious")

    before = faults.install(take)
    with pytest.raises(FingerprintMismatchError, match="was not written by this job"):
        echo()
    faults.install(before)
    assert out.read_text() == "precious"
    out.unlink()
    assert (echo().reused, pq.read_metadata(out).num_rows) == (5, 5)


def test_samples_of_a_row_stand_together_and_a_row_counts_once(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "a", "n": 3}, {"prompt": "b"}])
    summary = echo()
    table = pq.read_table(tmp_path / "out.parquet")
    assert list(zip(table["index"].to_pylist(), table["sample"].to_pylist(), strict=True)) == [
        (0, 0), (0, 1), (0, 2), (1, 0),
    ]  # fmt: skip
    assert (summary.rows, summary.ok, summary.computed) == (2, 2, 2)


def test_latency_parts_add_up_to_a_millisecond(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(300))
    echo()
    for row in pq.read_table(tmp_path / "out.parquet").to_pylist():
        assert row["queue_s"] + row["prefill_s"] == pytest.approx(row["ttft_s"], abs=1e-3)
        assert row["ttft_s"] + row["decode_s"] == pytest.approx(row["latency_s"], abs=1e-3)
        assert min(row["queue_s"], row["prefill_s"], row["decode_s"]) >= 0
        wall = (row["finished_at"] - row["started_at"]).total_seconds()
        assert wall == pytest.approx(row["latency_s"], abs=1e-3)


def test_rows_cut_by_max_tokens_are_counted(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "abcdef"}, {"prompt": "abc"}])
    summary = echo(sampling={"max_tokens": 4})
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["finish_reason"].to_pylist() == ["length", "stop"]
    assert table["completion"].to_pylist() == ["abcd", "abc"]
    assert summary.length == 1
    assert summary.completion_tokens == 7


def test_a_changed_setting_is_refused_by_name_and_nothing_is_touched(
    tmp_path: Path, echo: Echo
) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(5))
    echo()
    content = (tmp_path / "out.parquet").read_bytes()
    with pytest.raises(FingerprintMismatchError, match=r"sampling.temperature: \(absent\) -> 0.5"):
        echo(sampling={"temperature": 0.5})
    assert (tmp_path / "out.parquet").read_bytes() == content
    assert echo(sampling={"temperature": 0.5}, overwrite=True).computed == 5


@pytest.mark.parametrize("change", ["edit", "grow", "shrink"])
def test_a_changed_input_of_a_finished_job_is_refused(
    tmp_path: Path, echo: Echo, change: str
) -> None:
    rows = prompts(10)
    write_rows(tmp_path / "in.jsonl", rows)
    echo()
    changed = {
        "edit": [*rows[:3], {**rows[3], "prompt": "prompt number x"}, *rows[4:]],
        "grow": [*rows, {"prompt": "new"}],
        "shrink": rows[:9],
    }
    write_rows(tmp_path / "in.jsonl", changed[change])
    with pytest.raises(FingerprintMismatchError):
        echo()


def test_a_copied_input_with_equal_content_is_the_same_input(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(10))
    echo()
    copy = write_rows(tmp_path / "copy.jsonl", prompts(10))
    assert echo(copy).computed == 0


def test_limit_is_not_part_of_the_job_but_of_its_rows(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(10))
    assert echo(limit=4).rows == 4
    assert echo(limit=4).computed == 0
    with pytest.raises(FingerprintMismatchError, match="only the first 4 rows") as refused:
        echo()
    assert "--incremental adds the rest" in str(refused.value.hint)
    assert echo(limit=20, overwrite=True).rows == 10
    assert echo().computed == 0


def test_a_limit_below_rows_that_are_done_touches_nothing(tmp_path: Path) -> None:
    """It ended with 1 and "a bug in batchgen", each time."""
    source, out = write_rows(tmp_path / "in.jsonl", prompts(40)), tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo"]
    assert batchgen(*args, "--shard", "1/2").returncode == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.*"))
    refused = batchgen(*args, "--limit", 9)
    assert refused.returncode == 4, refused.stderr
    assert "row 39 of" in refused.stderr
    assert "--limit 40 or more" in refused.stderr
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.*")) == before
    assert batchgen(*args, "--limit", 40).returncode == 0


def test_a_missing_input_is_named_and_leaves_no_trace(tmp_path: Path, echo: Echo) -> None:
    with pytest.raises(InputUnreadableError, match=r"in\.jsonl"):
        echo()
    assert list(tmp_path.iterdir()) == []


def test_the_output_may_not_be_the_input(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "out.parquet", prompts(2))
    with pytest.raises(OutputUnwritableError):
        echo(tmp_path / "out.parquet")


def test_token_ids_and_prompts_are_optional(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "ab"}])
    echo(save_token_ids=True, save_prompt=False)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["token_ids"].to_pylist() == [[97, 98]]
    assert table["prompt"].to_pylist() == [None]


def test_chats_are_rendered_and_shown_as_the_engine_got_them(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", [{"messages": [{"role": "user", "content": "hi"}]}])
    echo()
    row = pq.read_table(tmp_path / "out.parquet").to_pylist()[0]
    assert row["prompt"] == "user: hi\nassistant: "
    assert row["prompt_tokens"] == len(row["prompt"])


def test_a_long_template_may_stand_in_the_flag_itself(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", [{"messages": [{"role": "user", "content": "hi"}]}])
    echo(chat_template="{# " + "long " * 100 + "#}{{ messages[0].content }}!")
    assert pq.read_table(tmp_path / "out.parquet")["prompt"].to_pylist() == ["hi!"]


def test_a_template_that_cannot_be_read_is_refused_before_anything_is_touched(
    tmp_path: Path, echo: Echo
) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(1))
    with pytest.raises(UsageError, match=r"no\.jinja"):
        echo(chat_template="no.jinja")
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_settings_of_the_model_that_are_not_served_are_named(
    tmp_path: Path, echo: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make(tmp_path / "model", "gpt2")
    wanted = {"num_beams": 4, "penalty_alpha": 0.6, "min_length": 0}
    (model / "generation_config.json").write_text(json.dumps(wanted))
    write_rows(tmp_path / "in.jsonl", prompts(1))
    for named in (True, False):  # a second run has nothing to do, and ignores nothing
        echo(model=str(model), quiet=False)
        assert ("num_beams, penalty_alpha" in capsys.readouterr().err) == named


def test_token_ids_outside_the_vocabulary_are_an_error_row(tmp_path: Path, echo: Echo) -> None:
    rows = [{"prompt_token_ids": [104, 105]}, {"prompt_token_ids": [104, 256]}]
    write_rows(tmp_path / "in.jsonl", rows)
    echo()
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["completion"].to_pylist() == ["hi", None]
    assert table["error_code"].to_pylist() == [None, "invalid_row"]


def test_a_prompt_past_the_models_length_is_an_error_row(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": "abcdef"}, {"prompt": "abc"}])
    echo(max_model_len=5)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["error_code"].to_pylist() == ["prompt_too_long", None]
    assert table["prompt_tokens"].to_pylist()[0] == 6


def test_the_summary_file_holds_the_summary(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(3))
    summary = echo(summary=tmp_path / "summary.json")
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written == json.loads(summary.to_json())
    assert written["rows"] == written["ok"] + written["errors"] + written["skipped"]


def test_equal_jobs_give_equal_files_whatever_the_window(tmp_path: Path, echo: Echo) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(700))
    echo(max_num_seqs=1)
    one = stable(tmp_path / "out.parquet")
    echo(max_num_seqs=64, checkpoint_every=10, overwrite=True)
    assert stable(tmp_path / "out.parquet").equals(one)


@pytest.mark.parametrize("text", ["-1", "x", "101%", "nan%", "1.5", ""])
def test_a_wrong_failure_limit_is_a_usage_error(tmp_path: Path, echo: Echo, text: str) -> None:
    write_rows(tmp_path / "in.jsonl", prompts(1))
    with pytest.raises(UsageError, match="max-failures"):
        echo(max_failures=text)
