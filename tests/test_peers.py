"""Other projects' own test cases, and bugs reported to them, replayed as whole jobs.

Each test names its origin. `test_peers_elsewhere` says where the other cases are replayed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, begin, prompts, stable, summary_of, wait_for_parts, write_rows

from batchgen.engine.draws import draw_key, uniform

SLOWER = "slow:at=engine.step,seconds=0.1,rows=2"
MESSAGES = [{"role": "user", "content": "hello"}]


def openai_row(number: int, url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"model": "m", "messages": MESSAGES} | body
    return {"custom_id": f"request-{number}", "method": "POST", "url": url, "body": content}


def echo(source: Path, out: Path, *args: object, **extra: str) -> subprocess.CompletedProcess[str]:
    return batchgen("run", "-i", source, "-o", out, "--engine", "echo", *args, **extra)


def codes_of(out: Path) -> list[str | None]:
    codes: list[str | None] = pq.read_table(out)["error_code"].to_pylist()
    return codes


def test_five_requests_three_of_them_bad_all_get_an_answer(tmp_path: Path) -> None:
    """vLLM, test_run_batch.py: test_completions (wrong model, bad url, stream)."""
    rows = [
        openai_row(1),
        openai_row(2),
        openai_row(3, model="NonExistModel"),
        openai_row(4, url="/bad_url"),
        openai_row(5, stream=True),
    ]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    result = echo(source, out, "--served-model-name", "m")
    assert result.returncode == 3
    assert codes_of(out) == [None, None, "model_mismatch", "unsupported_url", "invalid_param"]
    assert pq.read_table(out)["id"].to_pylist() == [f"request-{i}" for i in range(1, 6)]


def test_endpoints_of_other_tasks_are_said_to_be_unsupported(tmp_path: Path) -> None:
    """vLLM, test_run_batch.py: test_embeddings, test_score, test_transcription, ..."""
    tasks = ["embeddings", "score", "rerank", "audio/transcriptions", "audio/translations"]
    rows = [openai_row(i, f"/v1/{task}", input="text") for i, task in enumerate(tasks)]
    source, out = write_rows(tmp_path / "in.jsonl", [*rows, openai_row(9)]), tmp_path / "o.parquet"
    assert echo(source, out, "--max-failures", 5).returncode == 0
    assert codes_of(out) == ["unsupported_url"] * 5 + [None]


def test_requests_are_counted_without_blank_lines_and_malformed_ones_are_named(
    tmp_path: Path,
) -> None:
    """vLLM, test_run_batch.py and pull request 52505: test_validate_batch_counts_requests,
    test_validate_batch_rejects_malformed_request, test_completions_invalid_input. An id is not
    needed here: rows are known by their index."""
    wrong = [
        openai_row(2) | {"method": "GET"},
        {"custom_id": "3", "method": "POST", "url": "/v1/chat/completions"},
        openai_row(4) | {"body": "text"},
        openai_row(5) | {"body": {}},
        openai_row(6, unheard_of={"enable_thinking": False}),
    ]
    nameless = {key: value for key, value in openai_row(7).items() if key != "custom_id"}
    lines = ["", openai_row(1), "  ", *wrong, "", nameless]
    source = write_rows(tmp_path / "in.jsonl", lines)
    result = batchgen("validate", "-i", source, "--json")
    assert result.returncode == 65
    counts = json.loads(result.stdout.splitlines()[-1])
    assert (counts["rows"], counts["good"]) == (7, 2)
    assert counts["error_codes"] == {"invalid_row": 2, "missing_prompt": 2, "unknown_param": 1}


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "fifo"])
def test_a_stream_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    """vLLM, pull request 52505: test_open_batch_input_stages_a_stream. Here a stream is not staged:
    a run that goes on must be able to read its input again."""
    os.mkfifo(tmp_path / "fifo")
    given = tmp_path / "fifo" if name == "fifo" else name
    result = echo(Path(given), tmp_path / "out.parquet")
    assert result.returncode == 66
    assert "write its rows to a file first" in result.stderr
    assert not list(tmp_path.glob("out*"))


def test_rows_of_one_seed_draw_apart(tmp_path: Path) -> None:
    """vLLM, issue 50440: with one seed for all rows every row drew the same noise."""
    draws = [uniform(draw_key(7, f"row-{i}", 0), place) for i in range(4000) for place in range(5)]
    rows = np.array(draws).reshape(4000, 5)
    assert abs(rows.mean(axis=0) - 0.5).max() < 0.02
    assert abs(rows.var(axis=0) - 1 / 12).max() < 0.005
    correlation = np.corrcoef(np.concatenate([rows[:-1], rows[1:]], axis=1).T)[:, :5]
    assert abs(correlation - np.eye(10)[:, :5]).max() < 0.07


@pytest.fixture
def working(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path, Path]]:
    """A slow run at work, 1 row in 10 of which is bad: process, input, output."""
    rows: list[Any] = list(prompts(100))
    rows[::10] = ["{broken"] * 10
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--checkpoint-every", 10]
    process = begin(*args, fault=SLOWER)
    yield process, source, out
    process.kill()
    process.communicate(timeout=60)


def test_answers_are_on_disk_and_readable_while_the_run_works(working: Any) -> None:
    """vLLM, pull request 52505: test_batch_output_writer_persists_before_completion; and
    polar_llama issue 75: a partial output says that it is partial."""
    process, _, out = working
    parts = wait_for_parts(process, out, 2)
    assert sum(pq.read_metadata(part).num_rows for part in parts) >= 10
    assert process.poll() is None
    assert not out.exists()
    status = json.loads(batchgen("status", out, "--json").stdout)
    assert status["state"] == "running"


def test_after_a_cancellation_answers_and_errors_add_up_and_no_id_is_in_both(working: Any) -> None:
    """llm-d batch-gateway, issues 220, 221 and 504."""
    process, source, out = working
    wait_for_parts(process, out, 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75
    summary = summary_of(echo(source, out, "--max-failures", 10))
    assert (summary["ok"], summary["errors"], summary["rows"]) == (90, 10, 100)
    table = pq.read_table(out)
    assert table["index"].to_pylist() == list(range(100))
    assert codes_of(out).count("invalid_json") == 10


def test_the_last_part_torn_by_a_crash_is_computed_again(working: Any) -> None:
    """bantzv2 issue 511: torn last line recovered, the rest and only the rest computed."""
    process, source, out = working
    wait_for_parts(process, out, 4)
    process.kill()
    process.communicate(timeout=60)
    last = sorted(Path(f"{out}.ckpt").glob("parts/part-*.parquet"))[-1]
    last.write_bytes(last.read_bytes()[:-7])
    summary = summary_of(echo(source, out, "--max-failures", 10))
    assert summary["reused"] > 0
    assert summary["computed"] + summary["reused"] == 100
    assert pq.read_table(out)["index"].to_pylist() == list(range(100))


@pytest.mark.parametrize(
    ("fault", "code"), [("kill:at=part.write,nth=4", -9), ("full:at=part.write,nth=4", 73)]
)
def test_35_documents_in_chunks_fail_in_the_middle_and_are_completed(
    tmp_path: Path, fault: str, code: int
) -> None:
    """datatrove, test_inference.py: test_checkpoint_recovery_and_completeness; its lack: a disk
    that is full at a save must not lose the row silently. vLLM, pull request 52505:
    test_dispatch_batch_keeps_responses_written_before_a_failure."""
    source, out = write_rows(tmp_path / "in.jsonl", prompts(35)), tmp_path / "out.parquet"
    pace = "slow:at=engine.step,seconds=0.05,rows=1"
    broken = echo(source, out, "--checkpoint-every", 10, BATCHGEN_FAULT=f"{pace};{fault}")
    assert broken.returncode == code, broken.stderr
    assert not out.exists()
    summary = summary_of(echo(source, out))
    assert summary["reused"] >= 15
    assert summary["computed"] == 35 - summary["reused"]
    ids = pq.read_table(out)["id"].to_pylist()
    assert ids == [f"row-{i}" for i in range(35)]


def test_the_first_error_of_a_job_may_come_after_a_thousand_good_rows(tmp_path: Path) -> None:
    """Ray, pull request 60572: parts without an error must merge with a later one that has it;
    and a column that is null at first keeps its type."""
    rows: list[Any] = [{"prompt": f"p{i}", "note": None} for i in range(1100)]
    rows[1050] = {"prompt": 5, "note": "first"}
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    args = ["--checkpoint-every", 100, "--max-failures", 1]
    assert echo(source, out, *args).returncode == 0
    table = pq.read_table(out)
    assert [i for i, code in enumerate(table["error_code"].to_pylist()) if code] == [1050]
    assert table["note"].to_pylist()[1050] == "first"
    assert not any(str(field.type) == "null" for field in table.schema)


def test_looking_at_a_job_writes_nothing(tmp_path: Path) -> None:
    """Ray, test_checkpoint.py: test_skip_checkpoint_flag (reading creates no checkpoint)."""
    source, out = write_rows(tmp_path / "in.jsonl", prompts(3)), tmp_path / "out.parquet"
    batchgen("validate", "-i", source)
    batchgen("status", out)
    batchgen("merge", out)
    assert list(tmp_path.iterdir()) == [source]


def test_a_checkpoint_folder_that_cannot_be_is_an_error_at_once(tmp_path: Path) -> None:
    """Ray, test_checkpoint.py: test_invalid_checkpoint_path."""
    source = write_rows(tmp_path / "in.jsonl", prompts(3))
    result = echo(source, tmp_path / "o.parquet", "--checkpoint-dir", "/proc/nowhere/ckpt")
    assert result.returncode == 73
    assert "/proc/nowhere" in result.stderr


@pytest.mark.parametrize("ids", [["007", "7", "1e3", " 7", "NaN", "true"], [None] * 6])
def test_any_ids_or_none_are_resumed_as_they_are(tmp_path: Path, ids: list[str | None]) -> None:
    """Ray, test_checkpoint.py: test_filter_rows_for_block_with_string_id,
    test_checkpoint_with_missing_id_column, test_recovery_skips_checkpointed_rows; curator:
    test_resume."""
    rows = [{"id": value, "prompt": f"p{i}"} for i, value in enumerate(ids)]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    fault = "slow:at=engine.step,seconds=0.15,rows=1;kill:at=part.write,nth=3"
    assert echo(source, out, "--checkpoint-every", 2, BATCHGEN_FAULT=fault).returncode == -9
    assert summary_of(echo(source, out))["reused"] == 2
    expected = [value or str(i) for i, value in enumerate(ids)]
    assert pq.read_table(out)["id"].to_pylist() == expected


def test_an_id_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Ray, test_checkpoint.py: test_invalid_id_column."""
    pq.write_table(pa.table({"prompt": ["a"], "key": ["k"]}), tmp_path / "in.parquet")
    result = echo(tmp_path / "in.parquet", tmp_path / "out.parquet", "--id-column", "nope")
    assert result.returncode == 65
    assert "has no column nope; it has prompt, key" in result.stderr


def test_a_repeated_custom_id_is_found_by_its_line(tmp_path: Path) -> None:
    """llm-d batch-gateway, issue 147."""
    rows = [openai_row(1), openai_row(2), openai_row(1)]
    result = batchgen("validate", "-i", write_rows(tmp_path / "in.jsonl", rows))
    assert result.returncode == 65
    assert "in.jsonl:3" in result.stdout
    assert "duplicate_id" in result.stdout


def test_a_prompt_and_its_tokens_give_the_same_text(tmp_path: Path) -> None:
    """SGLang, test_srt_engine.py: test_3_engine_token_ids_consistency."""
    rows = [{"prompt": "hello"}, {"prompt_token_ids": list(b"hello")}]
    out = tmp_path / "out.parquet"
    assert echo(write_rows(tmp_path / "in.jsonl", rows), out).returncode == 0
    texts = pq.read_table(out)["completion"].to_pylist()
    assert texts[0] == texts[1] != ""


def test_jobs_one_after_the_other_in_one_process_keep_their_ids_apart(tmp_path: Path) -> None:
    """transformers, pull request 45943: two consecutive batches from one engine."""
    from batchgen.job.run.runner import run
    from batchgen.job.spec import InputSpec, JobSpec

    outs = []
    for name in ("a", "b"):
        rows = [{"id": f"{name}{i}", "prompt": f"{name} {i}"} for i in range(9)]
        source = write_rows(tmp_path / f"{name}.jsonl", rows)
        outs.append(tmp_path / f"{name}.parquet")
        run(JobSpec(InputSpec((str(source),)), outs[-1], engine="echo", quiet=True))
    for name, out in zip("ab", outs, strict=True):
        table = stable(out)
        assert table["id"].to_pylist() == [f"{name}{i}" for i in range(9)]
        assert all(text.startswith(name) for text in table["completion"].to_pylist())
