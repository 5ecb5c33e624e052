"""Whole jobs over the real engine loop and a model without weights: what crosses the seam."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from echo_runs import stable, write_rows
from fake_model import FakeModel

from batchgen import InputSpec, JobSpec, Summary, run
from batchgen.engine.config import EngineConfig
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.factory import build_engine
from batchgen.job.run.assembly import Assembly
from batchgen.job.stopping.signals import Stop

Job = Callable[..., Summary]
BYTES = 256
EOS = 0


class SteppedModel(FakeModel):
    """Calls back before each step, and breaks down whenever a step holds the token `poison`."""

    def __init__(self, poison: int | None = None) -> None:
        super().__init__(vocab_size=BYTES)
        self.poison = poison
        self.on_step: Callable[[int], None] = lambda steps: None

    def check(self, input_ids: torch.Tensor) -> None:
        self.on_step(len(self.num_tokens_of_steps))
        if self.poison is not None and bool((input_ids == self.poison).any()):
            raise RuntimeError("this token breaks the model")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Run `in.jsonl` on a byte model with temperature 1; keywords go to the spec."""

    def run_job(
        out: str = "out.parquet",
        source: str = "in.jsonl",
        model: FakeModel | None = None,
        stop: Stop | None = None,
        **spec: Any,
    ) -> Summary:
        monkeypatch.setattr(Assembly, "_load", lambda self: _engine(model, self._spec.max_num_seqs))
        settings: dict[str, Any] = {"engine": "echo", "quiet": True, "max_num_seqs": 16}
        settings["sampling"] = {"temperature": 1.0, "max_tokens": 24}
        given = InputSpec((str(tmp_path / source),))
        return run(JobSpec(given, tmp_path / out, **(settings | spec)), stop=stop)

    return run_job


def _engine(model: FakeModel | None, max_num_seqs: int | None) -> LLMEngine:
    config = EngineConfig(
        Path("fake"),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=64,
        block_size=4,
        num_blocks=400,
        eos_token_ids=(EOS,),
    )
    return build_engine(model or SteppedModel(), config)


def rows(count: int = 60) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", "prompt": f"row {i} " + "ab" * (i % 9)} for i in range(count)]


@pytest.mark.parametrize("max_num_seqs", [1, 64])
def test_sampled_text_does_not_depend_on_the_batch(
    tmp_path: Path, job: Job, max_num_seqs: int
) -> None:
    write_rows(tmp_path / "in.jsonl", rows())
    job()
    job("other.parquet", max_num_seqs=max_num_seqs)
    assert stable(tmp_path / "out.parquet").equals(stable(tmp_path / "other.parquet"))


def test_sampled_text_follows_the_id_through_a_shuffle(tmp_path: Path, job: Job) -> None:
    shuffled = rows()
    random.Random(5).shuffle(shuffled)
    write_rows(tmp_path / "in.jsonl", rows())
    write_rows(tmp_path / "shuffled.jsonl", shuffled)
    job()
    job("other.parquet", "shuffled.jsonl")
    one, other = (
        pq.read_table(tmp_path / name, columns=["id", "completion"]).sort_by("id")
        for name in ("out.parquet", "other.parquet")
    )
    assert one.equals(other)


def test_seeds_and_samples_draw_apart(tmp_path: Path, job: Job) -> None:
    write_rows(
        tmp_path / "in.jsonl",
        [{"prompt": "same", "n": 3}, {"prompt": "same", "seed": 5, "id": "s"}, {"prompt": "same"}],
    )
    job()
    table = pq.read_table(tmp_path / "out.parquet")
    assert len(set(table["completion"].to_pylist())) == 5
    assert table["seed"].to_pylist() == [0, 0, 0, 5, 0]
    assert table["sample"].to_pylist() == [0, 1, 2, 0, 0]


def test_tokens_in_flight_are_continued_and_the_result_is_that_of_an_unbroken_run(
    tmp_path: Path, job: Job
) -> None:
    write_rows(tmp_path / "in.jsonl", [{**row, "n": 1 + i % 2} for i, row in enumerate(rows())])
    whole = job("whole.parquet", save_token_ids=True)
    for stop_at in (8, 20, 25):
        stop, model = Stop(), SteppedModel()
        model.on_step = _stop_at(stop, stop_at)
        stopped = job(model=model, stop=stop, save_token_ids=True)
        assert stopped.exit_code == 75
        assert list((tmp_path / "out.parquet.ckpt").glob("inflight-*.json"))
    assert 0 < stopped.rows < 60
    model = SteppedModel()
    last = job(model=model, save_token_ids=True)
    # What was saved is read in again as prompts are, not generated again.
    assert sum(model.num_seqs_of_steps) < last.completion_tokens - stopped.completion_tokens
    assert (last.exit_code, last.rows, last.reused) == (0, 60, stopped.rows)
    assert last.recomputed > 0
    assert stable(tmp_path / "out.parquet").equals(stable(tmp_path / "whole.parquet"))
    assert last.completion_tokens == whole.completion_tokens


def _stop_at(stop: Stop, steps: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == steps:
            stop.signum = 15
            time.sleep(0.3)  # the main thread looks every 0.1 s

    return on_step


def test_a_row_that_breaks_the_model_is_an_error_row_and_the_others_are_served(
    tmp_path: Path, job: Job
) -> None:
    prompts = [f"row {i}" for i in range(20)]
    prompts[7] = "row \x07"
    write_rows(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in prompts])
    summary = job(model=SteppedModel(poison=7), sampling={"max_tokens": 3})
    table = pq.read_table(tmp_path / "out.parquet")
    failed = [i for i, status in enumerate(table["status"].to_pylist()) if status == "error"]
    assert 7 in failed
    assert summary.errors == len(failed) < 10
    assert set(table["error_code"].to_pylist()) <= {None, "engine_crash", "internal"}


def test_rows_keep_the_engines_times(tmp_path: Path, job: Job) -> None:
    write_rows(tmp_path / "in.jsonl", rows())
    job()
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert any(row["decode_s"] > 0 for row in table)
    for row in table:
        assert row["ttft_s"] + row["decode_s"] == pytest.approx(row["latency_s"], abs=1e-3)
        if row["completion_tokens"] > 1:
            expected = row["decode_s"] / (row["completion_tokens"] - 1)
            assert row["tpot_s"] == pytest.approx(expected)


def test_no_thread_outlives_a_run(tmp_path: Path, job: Job) -> None:
    write_rows(tmp_path / "in.jsonl", rows(5))
    before = set(threading.enumerate())
    job()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive(), thread.name


def test_stop_strings_end_their_own_row_and_are_cut_from_its_text(tmp_path: Path, job: Job) -> None:
    write_rows(tmp_path / "in.jsonl", [{"prompt": f"p{i}"} for i in range(20)])
    job("whole.parquet", sampling={"max_tokens": 60, "temperature": 1.0})
    whole = pq.read_table(tmp_path / "whole.parquet")["completion"].to_pylist()
    stop = whole[3][4:6]
    write_rows(
        tmp_path / "stop.jsonl",
        [{"prompt": f"p{i}", "stop": [stop, "\x00\x00"]} for i in range(20)],
    )
    job(source="stop.jsonl", sampling={"max_tokens": 60, "temperature": 1.0})
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    for row, text in zip(rows, whole, strict=True):
        assert row["completion"] == text.split(stop, 1)[0]
        assert row["stop_reason"] == (stop if stop in text else None)
    assert rows[3]["finish_reason"] == "stop"


def test_the_token_that_ends_a_row_is_counted_and_is_not_in_its_text(
    tmp_path: Path, job: Job
) -> None:
    rows = [{"prompt": f"p{i}", "stop_token_ids": list(range(97, 123))} for i in range(20)]
    write_rows(tmp_path / "in.jsonl", rows)
    job(save_token_ids=True)
    ended = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert sum(row["stop_reason"] is not None for row in ended) > 10
    for row in ended:
        kept = len(row["token_ids"]) - (row["finish_reason"] == "stop")
        assert row["completion"] == bytes(row["token_ids"][:kept]).decode("utf-8", "replace")
        assert row["completion_tokens"] == len(row["token_ids"])


def test_a_stop_string_before_min_tokens_does_not_shorten_a_row(tmp_path: Path, job: Job) -> None:
    rows = [{"prompt": f"p{i}", "stop": list("aeiou"), "min_tokens": 20} for i in range(20)]
    write_rows(tmp_path / "in.jsonl", [row | {"ignore_eos": True} for row in rows])
    job(save_token_ids=True, sampling={"temperature": 1.0, "max_tokens": 200})
    for row in pq.read_table(tmp_path / "out.parquet").to_pylist():
        assert row["finish_reason"] == "stop"
        assert row["completion_tokens"] >= 20
        whole = bytes(row["token_ids"]).decode("utf-8", "replace")
        assert row["completion"] == whole[: whole.rindex(row["stop_reason"])]


def test_the_device_itself_is_recorded_and_a_change_is_said(
    tmp_path: Path, job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "in.jsonl", rows())
    stop, model = Stop(), SteppedModel()
    model.on_step = _stop_at(stop, 20)
    assert job(model=model, stop=stop).exit_code == 75
    manifest = tmp_path / "out.parquet.ckpt" / "manifest.json"
    recorded = json.loads(manifest.read_text())
    assert recorded["facts"]["device"] == "cpu"
    recorded["facts"]["device"] = "cuda:0 (H100)"
    manifest.write_text(json.dumps(recorded))
    job()
    assert "last run of this job: device: 'cuda:0 (H100)' -> 'cpu'" in caplog.text
    footer = pq.read_metadata(tmp_path / "out.parquet").metadata[b"batchgen.manifest"]
    assert json.loads(footer)["facts"]["device"] == "cpu"
