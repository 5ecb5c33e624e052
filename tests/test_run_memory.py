"""Memory does not grow with the input, nor with how busy the machine is."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import cold_batchgen, environment, summary_of, write_rows
from ledger_tools import make_row

from batchgen.engine.request import Completion, FinishReason, Request, SamplingParams
from batchgen.engine.run.echo import EchoEngine
from batchgen.errors import ErrorCode, RowError
from batchgen.job.flow.channel import Channel
from batchgen.job.flow.engine_stage import EngineStage
from batchgen.job.flow.outbox import FinishedRow, Outcome
from batchgen.job.flow.progress import Live
from batchgen.job.flow.reader_stage import ReaderStage, chunks
from batchgen.job.flow.writer_stage import finished_rows
from batchgen.job.input.reader import Reader
from batchgen.job.row_counts import RowCounts
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec
from batchgen.job.storage.journal import Journal, write_attempts
from batchgen.job.storage.part import Columns, PartStem
from batchgen.job.storage.part_writer import PartWriter
from batchgen.job.text.byte_codec import ByteCodec
from batchgen.job.text.prepared import FailedRow, PreparedRow, request_id
from batchgen.job.text.requests import Requests

FEW, MANY = 150_000, 270_000  # past most of what the final merge holds at once
RETRIED = 100_000
PROMPT = "a prompt of about a hundred characters, as people write them when they are in a hurry, "
POOL = "ARROW_DEFAULT_MEMORY_POOL"
POOL_OF_A_COMMAND = """
from batchgen.__main__ import main
assert main(["merge", "--help"]) == 0
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""


def peak(source: Path, out: Path) -> int:
    result = cold_batchgen("run", "-i", source, "-o", out, "--engine", "echo")
    assert result.returncode == 0, result.stderr
    return int(summary_of(result)["peak_memory_bytes"])


def test_a_longer_input_takes_no_more_memory(tmp_path: Path) -> None:
    """Rows held in memory would cost several hundred bytes each; allowed are 16, and what the
    allocator's habits add: 24 MB. What else the machine does only adds to a peak, so of each the
    lowest counts: rows that are held stand in every one."""
    allowed = 16 * (MANY - FEW) + 24_000_000
    peaks: dict[int, list[int]] = {FEW: [], MANY: []}
    for attempt in range(3):
        for rows, seen in peaks.items():
            given = ({"id": f"r{i}", "prompt": f"{PROMPT}{i}"} for i in range(rows))
            source = tmp_path / f"{rows}.jsonl"
            if not seen:
                write_rows(source, given)
            seen.append(peak(source, tmp_path / f"{rows}-{attempt}.parquet"))
        if min(peaks[MANY]) - min(peaks[FEW]) < allowed:
            return
    pytest.fail(f"peaks of {peaks} bytes are more than {allowed} apart")


@pytest.mark.parametrize("told", [None, "mimalloc"])
def test_arrow_takes_memory_from_where_peaks_repeat_unless_told(told: str | None) -> None:
    """With mimalloc the peaks of equal runs lie 40 MB apart."""
    settings = {name: value for name, value in environment().items() if name != POOL}
    result = subprocess.run(
        [sys.executable, "-c", POOL_OF_A_COMMAND],
        env=settings | ({POOL: told} if told else {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    used = result.stdout.split()[-1]
    assert used == told if told else used in ("jemalloc", "system")
    assert result.stderr == ""  # the allocator is one that Arrow has


def test_rows_begun_before_take_a_few_bytes_each(tmp_path: Path) -> None:
    """`--retry` may have millions of them; a dict of them takes over 100 bytes a row."""
    rows = np.arange(0, 2 * RETRIED, 2)
    write_attempts(tmp_path, RowCounts.first_of(rows, 1 + rows % 3), lambda: None)
    tracemalloc.start()
    journal = Journal(tmp_path, 1, "", lambda asked: np.zeros(len(asked), np.bool_), lambda: None)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 40 * RETRIED
    last = int(rows[-1])
    assert [journal.attempt(row) for row in (0, 1, 2, 4, last, last + 1)] == [
        2, 1, 4, 3, 2 + last % 3, 1,
    ]  # fmt: skip
    assert journal.begin([0, 1, 2, last, last + 2]) == 3
    assert journal.deaths == {}
    journal.close()


LIKELY = [{"token": "x", "token_id": 1, "logprob": -1.0}] * 20


@pytest.mark.parametrize(
    "long",
    [
        {"prompt": "x" * (3 << 20)},
        {"id": "x" * (3 << 20)},
        {"kept": {"page": "x" * (3 << 20)}},
        {"top_logprobs": [LIKELY] * 4000},
    ],
    ids=["prompt", "id", "kept", "top_logprobs"],
)
def test_long_rows_wait_for_the_disk_in_bounded_memory(
    tmp_path: Path, long: dict[str, Any]
) -> None:
    """A part on a disk that stalls and one behind it: who would add to them waits."""
    disk = threading.Event()
    writer = PartWriter(
        tmp_path,
        PartStem("job", 1, 0),
        Columns(
            (("page", pa.string()),) if "kept" in long else (),
            frozenset(long) - {"prompt", "id", "kept"},
        ),
        lambda: disk.wait(60) and None,
        every=10**6,
        seconds=60,
    )
    taken: list[int] = []

    def add() -> None:
        for number in range(40):
            writer.append([make_row(number, **long)])
            taken.append(number)

    adding = threading.Thread(target=add, daemon=True)
    adding.start()
    adding.join(1.0)
    held = len(taken)
    disk.set()
    adding.join(60)
    writer.close()
    assert held <= 12  # of 16 MiB and 3 more each
    assert sum(part.rows for part in writer.parts) == 40


@pytest.mark.parametrize("name", ["page", "id"])
def test_rows_that_carry_much_are_read_a_few_at_a_time(tmp_path: Path, name: str) -> None:
    """Of 145 MB in all less than half is held, by the sample that settles the columns, by a
    row group's batches or by a chunk on its way to the tokenizer."""
    rows = [{"prompt": "p", name: f"{number} " * 500_000} for number in range(100)]
    lines = write_rows(tmp_path / "in.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=5)
    del rows
    for source in (lines, tmp_path / "in.parquet"):
        tracemalloc.start()
        held = sum(
            len(chunk) for chunk in chunks(Reader(InputSpec((str(source),))), 512, 2_000_000)
        )
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held == 100
        assert most < 60_000_000


class WatchedEngine(EchoEngine):
    """Notes how many requests it was given and has not answered."""

    most = 0

    def step(self) -> list[Completion]:
        self.most = max(self.most, self.num_unfinished)
        return super().step()


@pytest.mark.parametrize(("carried", "at_once"), [(10 << 20, 26), (200 << 20, 8), (0, 64)])
def test_rows_that_carry_much_wait_in_small_numbers_and_leave_no_place_empty(
    carried: int, at_once: int
) -> None:
    engine = WatchedEngine(8, 100)
    ready: Channel[list[PreparedRow]] = Channel(1000)
    finished: Channel[list[Outcome]] = Channel(1000)
    for index in range(64):
        row = InputRow(index, "", prompt="p", carried=carried)
        ready.put([PreparedRow(row, "p", [1], [Request(request_id(index, 0), [1], row.params)])])
    ready.close()
    EngineStage(lambda: engine, ready, finished, begin=lambda begun: None, live=Live()).run()
    finished.close()
    done = 0
    while not finished.drained:
        done += len(finished.get() or ())
    assert done == 64
    assert engine.most == at_once


@pytest.mark.parametrize(("places", "at_once"), [(64, 489), (1024, 4096)])
def test_a_fast_engine_sees_as_many_long_rows_at_once_as_it_finds_common_beginnings_among(
    places: int, at_once: int
) -> None:
    """Rows of 4,096 tokens: two million of them wait, or 16 thousand a place in the engine."""
    engine = WatchedEngine(places, 1 << 20)
    ready: Channel[list[PreparedRow]] = Channel(10_000)
    prompt = array("i", [1]) * 4096
    for index in range(5000):
        row = InputRow(index, "", prompt="p")
        request = Request(request_id(index, 0), prompt, row.params)
        ready.put([PreparedRow(row, "p", prompt, [request])])
    ready.close()
    finished: Channel[list[Outcome]] = Channel(10_000)
    EngineStage(lambda: engine, ready, finished, begin=lambda begun: None, live=Live()).run()
    assert engine.most == at_once


@pytest.mark.parametrize("samples", [1, 8])
def test_a_token_that_waits_takes_a_few_bytes(samples: int) -> None:
    """A list of ids takes some forty for each."""
    codec, rows, length = ByteCodec(), 20, 50_000
    texts = [
        InputRow(i, "", prompt="x" * length, params=SamplingParams(n=samples)) for i in range(rows)
    ]
    requests = Requests(codec)
    tracemalloc.start()
    ready, _ = requests.prepare(texts)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(len(row.requests) for row in ready) == rows * samples
    assert held < 5 * rows * length


def test_what_rows_carry_counts_where_they_wait_between_threads() -> None:
    row = InputRow(0, "", prompt="p", carried=40 << 20)
    prepared = PreparedRow(row, "p", [1], [])
    likely = Completion(0, [1] * 1000, FinishReason.STOP, top_logprobs=[[(1, -1.0)] * 20] * 1000)
    assert prepared.weight == 1 + (1 << 20)
    codec = ByteCodec()
    reading = ReaderStage([], lambda: Requests(codec), fail=list, on_chunk=lambda: None)
    for channel, batch, most in (
        (reading.ready, [prepared], 1),
        (finished_rows(), [FinishedRow(prepared, [])], 4),
        (finished_rows(), [FailedRow(row, RowError(ErrorCode.INTERNAL, "x"), "p")], 4),
        (finished_rows(), [FinishedRow(PreparedRow(InputRow(0, ""), "p", [1], []), [likely])], 191),
    ):
        sent = 0
        while not channel._is_full():
            channel.put(batch)
            sent += 1
        assert sent == most
