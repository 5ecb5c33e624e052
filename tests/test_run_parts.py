"""The small parts of a run: the queue between threads, requests, results, limits, estimates."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import write_rows

from batchgen.engine.request import Completion, FinishReason, Timings
from batchgen.errors import ErrorCode, RowError, StoppedError
from batchgen.job.flow.channel import Cancelled, Channel
from batchgen.job.flow.outbox import FinishedRow
from batchgen.job.flow.reader_stage import ReaderStage, chunks
from batchgen.job.flow.results import Results, ResultsOptions
from batchgen.job.flow.writer_stage import finished_rows
from batchgen.job.input.estimate import estimated_rows
from batchgen.job.input.reader import Reader
from batchgen.job.input.sources import find_sources
from batchgen.job.ledger.fingerprint import facts_of, fingerprint_of
from batchgen.job.rows import InputRow
from batchgen.job.run.summary import FailureLimit
from batchgen.job.spec import InputSpec, JobSpec
from batchgen.job.stopping.interruptible import interruptible
from batchgen.job.stopping.signals import Stop
from batchgen.job.text.byte_codec import ByteCodec
from batchgen.job.text.prepared import FailedRow, request_id, row_and_sample
from batchgen.job.text.requests import Requests


class BrittleCodec(ByteCodec):
    """Breaks on `bad`, in whole batches too, as real tokenizers do."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if "bad" in texts:
            raise ValueError("cannot\nencode")
        return super().encode_batch(texts)

    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        if list(b"bad") in [list(ids) for ids in sequences]:
            raise OverflowError("cannot decode")
        return super().decode_batch(sequences)

    def render_text(self, messages: object, kwargs: object = None) -> str:
        raise KeyError("no such variable")


def requests_of(codec: ByteCodec) -> Requests:
    return Requests(codec)


def row(index: int, prompt: str) -> InputRow:
    return InputRow(index, f"in.jsonl:{index + 1}", prompt=prompt)


def test_only_the_row_that_breaks_the_tokenizer_fails() -> None:
    ready, failed = requests_of(BrittleCodec()).prepare(
        [row(i, p) for i, p in enumerate(["a", "bad", "c"])]
    )
    assert [prepared.row.index for prepared in ready] == [0, 2]
    assert [(f.row.index, f.error.code) for f in failed] == [(1, ErrorCode.INTERNAL)]
    assert failed[0].error.message == "the tokenizer failed: ValueError: cannot encode"


def test_whatever_a_template_raises_is_a_template_error() -> None:
    chat = InputRow(0, "in.jsonl:1", messages=[{"role": "user", "content": "hi"}])
    ready, failed = requests_of(BrittleCodec()).prepare([chat])
    assert not ready
    assert failed[0].error.code is ErrorCode.TEMPLATE_ERROR


def test_error_rows_of_the_reader_pass_through() -> None:
    broken = InputRow(0, "in.jsonl:1", error=RowError(ErrorCode.INVALID_JSON, "no"))
    ready, failed = requests_of(ByteCodec()).prepare([broken, row(1, "b")])
    assert [prepared.row.index for prepared in ready] == [1]
    assert failed[0].error.code is ErrorCode.INVALID_JSON


def test_only_the_row_that_cannot_be_decoded_fails() -> None:
    codec = BrittleCodec()
    results = Results(lambda: codec, lambda i: 1, ResultsOptions("run"))
    finished = []
    for index, text in enumerate(["a", "bad", "c"]):
        (prepared,), _ = requests_of(ByteCodec()).prepare([row(index, text)])
        times = Timings(1.0, 1.5, 2.0, 4.0)
        done = Completion(
            request_id(index, 0), list(text.encode()), FinishReason.STOP, timings=times
        )
        finished.append(FinishedRow(prepared, [done]))
    rows = results.output_rows(finished)
    assert [(out.index, out.status, out.completion) for out in rows] == [
        (0, "ok", "a"), (1, "error", None), (2, "ok", "c"),
    ]  # fmt: skip
    first = rows[0]
    assert (first.queue_s, first.prefill_s, first.ttft_s) == (0.5, 0.5, 1.0)
    assert (first.decode_s, first.latency_s, first.tpot_s) == (2.0, 3.0, None)


def test_error_rows_have_no_times_and_say_why() -> None:
    results = Results(ByteCodec, lambda i: 2, ResultsOptions("run"))
    (out,) = results.output_rows(
        [FailedRow(row(3, "p"), RowError(ErrorCode.OOM, "too big"), "p", 9)]
    )
    assert (out.index, out.sample, out.error_code, out.error_message) == (3, 0, "oom", "too big")
    assert (out.latency_s, out.attempt, out.prompt_tokens, out.completion) == (None, 2, 9, None)


@pytest.mark.parametrize(("index", "sample"), [(0, 0), (7, 1023), (10**12, 5)])
def test_request_ids_tell_row_and_sample(index: int, sample: int) -> None:
    assert row_and_sample(request_id(index, sample)) == (index, sample)


def test_chunks_end_by_rows_or_by_text() -> None:
    rows = [row(i, "x" * 10) for i in range(7)]
    assert [len(chunk) for chunk in chunks(rows, 3, 1000)] == [3, 3, 1]
    assert [len(chunk) for chunk in chunks(rows, 100, 20)] == [2, 2, 2, 1]
    assert list(chunks([], 3, 1000)) == []


@pytest.mark.parametrize("bounds", [(2,), (1000, lambda batch: 10, 20)])
def test_a_channel_hands_over_in_order_and_holds_back_a_fast_sender(bounds: Any) -> None:
    channel: Channel[list[int]] = Channel(*bounds)
    most_waiting = 0

    def send() -> None:
        for number in range(100):
            channel.put([number])
        channel.close()

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    taken = []
    while not channel.drained:
        most_waiting = max(most_waiting, len(channel._batches))
        item = channel.get()
        if item is not None:
            taken += item
    sender.join(60)
    assert taken == list(range(100))
    assert most_waiting <= 2


def test_long_rows_wait_for_the_writing_thread_in_bounded_memory() -> None:
    """Rows of 101,000 tokens, 40 bytes each: a bound of 8,192 rows alone would let 33 GB wait."""
    (prepared,), _ = requests_of(ByteCodec()).prepare([row(0, "p" * 100_000)])
    done = Completion(0, [65] * 1_000, FinishReason.STOP)
    unread = FailedRow(prepared.row, RowError(ErrorCode.INTERNAL, "unread"), "p" * 404_000)
    for outcome in (FinishedRow(prepared, [done]), unread):
        assert num_sent(finished_rows(), [outcome]) == 40


def test_long_prompts_wait_for_the_engine_in_bounded_memory() -> None:
    ready, _ = requests_of(ByteCodec()).prepare([row(0, "p" * 100_000)])
    stage = ReaderStage([], lambda: requests_of(ByteCodec()), fail=list, on_chunk=lambda: None)
    assert num_sent(stage.ready, ready) == 10


def test_a_stop_ends_the_passing_over_of_rows_that_are_done(tmp_path: Path) -> None:
    """Of ten million rows that takes longer than any grace."""
    source = write_rows(tmp_path / "in.jsonl", ({"prompt": "p"} for _ in range(20_000)))
    reader = Reader(InputSpec((str(source),)))
    reader.skip_hint(lambda index: time.sleep(0.001) is None)
    stage = ReaderStage(
        reader,
        lambda: requests_of(ByteCodec()),
        fail=list,
        on_chunk=lambda: None,
        stop_rows=reader.stop,
    )
    reading = threading.Thread(target=stage.run, daemon=True)
    reading.start()
    while not reader.rows_read:
        time.sleep(0.001)
    stage.stop()
    reading.join(5)
    assert not reading.is_alive()
    assert 0 < reader.rows_read < 20_000
    assert not stage.read_to_end


def num_sent(channel: Channel[Any], batch: Sequence[object]) -> int:
    """How often nobody has to take the batch before the sender waits."""
    sent: list[int] = []

    def send() -> None:
        with suppress(Cancelled):
            while True:
                channel.put(batch)
                sent.append(1)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    while not channel._is_full():
        sender.join(0.01)
    sender.join(0.1)
    channel.cancel()
    sender.join(60)
    return len(sent)


def test_a_cancelled_channel_frees_both_sides() -> None:
    channel: Channel[list[int]] = Channel(1)
    channel.put([1])
    freed = []

    def send() -> None:
        try:
            channel.put([2])
        except Cancelled:
            freed.append(True)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    channel.cancel()
    sender.join(timeout=5)
    assert freed == [True]
    assert channel.get() is None
    assert channel.drained


def test_a_channel_waits_no_longer_than_told() -> None:
    assert Channel[list[int]](1).get(timeout=0) is None


@pytest.mark.parametrize(
    ("text", "failed", "rows", "exceeded"),
    [("0", 0, 10, False), ("0", 1, 10, True), ("2", 2, 10, False), ("10%", 1, 10, False),
     ("10%", 2, 10, True), ("0.5%", 1, 200, False), ("0%", 0, 0, False), ("100%", 9, 9, False)],
)  # fmt: skip
def test_the_failure_limit_is_a_count_or_a_share(
    text: str, failed: int, rows: int, exceeded: bool
) -> None:
    assert FailureLimit.parse(text).exit_code(failed, rows) == (3 if exceeded else 0)


def test_rows_are_estimated_before_they_are_read(tmp_path: Path) -> None:
    long = write_rows(tmp_path / "long.jsonl", [{"prompt": "p" * 100}] * 30_000)
    short = write_rows(tmp_path / "short.jsonl", [{"prompt": "p"}] * 7)
    pq.write_table(pa.table({"prompt": ["a"] * 5}), tmp_path / "t.parquet")
    names = [str(short), str(tmp_path / "t.parquet")]
    assert estimated_rows(find_sources(names), None) == 12
    assert estimated_rows(find_sources(names), 3) == 3
    assert estimated_rows(find_sources([str(long)]), None) == pytest.approx(30_000, rel=0.01)
    grows = tmp_path / "sorted.jsonl"
    grows.write_text("".join(f'{{"prompt": "{"x" * length}"}}\n' for length in range(0, 4000, 2)))
    assert estimated_rows(find_sources([str(grows)]), None) == pytest.approx(2_000, rel=0.2)


def test_a_stop_does_not_wait_for_a_long_call() -> None:
    stop, ended = Stop(), threading.Event()
    stop.signum = 15
    with pytest.raises(StoppedError, match="SIGTERM while it waited"):
        interruptible(lambda: ended.wait(60), stop, "it waited")
    ended.set()


def test_an_interruptible_call_returns_and_raises_as_a_call_does() -> None:
    assert interruptible(lambda: 5, Stop(), "") == 5
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0, Stop(), "")


def test_deterministic_keeps_the_dtype_and_is_part_of_the_fingerprint() -> None:
    given = InputSpec(("rows.jsonl",))
    spec = JobSpec(given, Path("out.parquet"), deterministic=True, dtype="bfloat16")
    plain = replace(spec, deterministic=False)
    assert fingerprint_of(spec, None) == fingerprint_of(plain, None) | {"deterministic": True}
    assert "deterministic" not in facts_of(plain, None)
    promise = facts_of(spec, None)["deterministic"]
    assert {"batch size", "preemption", "resume", "shards"} <= set(promise["equal_across"])
    assert promise["not_across"]
    assert promise["computed_on"]
    assert "torch" in promise["computed_with"]
