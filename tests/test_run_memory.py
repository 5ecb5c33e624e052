"""Memory does not grow with the input, nor with how busy the machine is."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from echo_runs import cold_batchgen, environment, summary_of, write_rows
from ledger_tools import make_row

from batchgen.job.row_counts import RowCounts
from batchgen.job.storage.journal import Journal, write_attempts
from batchgen.job.storage.part import Columns, PartStem
from batchgen.job.storage.part_writer import PartWriter

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


def peak(tmp_path: Path, rows: int) -> int:
    source = write_rows(
        tmp_path / f"{rows}.jsonl", ({"id": f"r{i}", "prompt": f"{PROMPT}{i}"} for i in range(rows))
    )
    result = cold_batchgen(
        "run", "-i", source, "-o", tmp_path / f"{rows}.parquet", "--engine", "echo"
    )
    assert result.returncode == 0, result.stderr
    return int(summary_of(result)["peak_memory_bytes"])


def test_a_longer_input_takes_no_more_memory(tmp_path: Path) -> None:
    """Rows held in memory would cost several hundred bytes each; allowed are 16, and what the
    allocator's habits add: 24 MB."""
    growth = peak(tmp_path, MANY) - peak(tmp_path, FEW)
    assert growth < 16 * (MANY - FEW) + 24_000_000


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


def test_long_texts_wait_for_the_disk_in_bounded_memory(tmp_path: Path) -> None:
    """A part on a disk that stalls and one behind it: who would add to them waits."""
    disk = threading.Event()
    writer = PartWriter(
        tmp_path,
        PartStem("job", 1, 0),
        Columns(),
        lambda: disk.wait(60) and None,
        every=10**6,
        seconds=60,
    )
    taken: list[int] = []

    def add() -> None:
        for number in range(40):
            writer.append([make_row(number, prompt="x" * (3 << 20))])
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
