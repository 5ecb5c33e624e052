"""Promise: an output never mixes rows of a file with rows that were written over them meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, begin, parts_of, prompts, wait_for_parts, write_rows

from batchgen.errors import InputUnreadableError
from batchgen.job.input.reader import Reader
from batchgen.job.spec import InputSpec

ROWS = [{"id": f"r{i}", "prompt": f"{i} {'x' * 1000}"} for i in range(3000)]  # 3 of the buffers
OTHERS = [{"id": f"r{i}", "prompt": f"{i} {'y' * 1000}"} for i in range(3000)]


def rewrite(path: Path) -> None:
    path.write_bytes(write_rows(path.with_name("others"), OTHERS).read_bytes())


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"id": "new", "prompt": "new"}\n')


def replace(path: Path) -> None:
    os.replace(write_rows(path.with_name("others"), OTHERS), path)


def read_while(path: Path, change: Callable[[Path], None]) -> list[str | None]:
    """Prompts' letters, the file being changed after the first row was given; a small one is
    before it, so that its rows are not the input's first."""
    first = write_rows(path.with_name("first.jsonl"), prompts(3))
    reader = Reader(InputSpec((str(first), str(path))))
    letters = []
    for row in reader:
        if row.index == 4:
            change(path)
        letters.append(row.prompt and row.prompt[-1])
    return letters[3:]


def test_rows_that_were_written_over_others_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(InputUnreadableError, match=r"in\.jsonl was written to while it was read"):
        read_while(path, rewrite)


@pytest.mark.parametrize(
    ("change", "found"),
    [(append, ["x"] * 3000 + ["w"]), (replace, ["x"] * 3000), (os.utime, ["x"] * 3000),
     (Path.unlink, ["x"] * 3000)],
)  # fmt: skip
def test_a_file_that_grows_or_is_replaced_whole_gives_the_rows_of_one_file(
    tmp_path: Path, change: Callable[[Path], None], found: list[str]
) -> None:
    assert read_while(write_rows(tmp_path / "in.jsonl", ROWS), change) == found


def test_a_run_whose_input_is_written_over_ends_without_an_output(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", (ROWS[0] | {"id": i} for i in range(12_000)))
    out = tmp_path / "out.parquet"
    process = begin(
        "run", "-i", path, "-o", out, "--engine", "echo", "--checkpoint-every", "20",
        fault="slow:at=engine.step,seconds=0.05,rows=256",
    )  # fmt: skip
    wait_for_parts(process, out)
    rewrite(path)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 66, stderr
    assert "next: run the same command again once it is whole" in stderr
    assert not out.exists()


def test_after_a_kill_every_row_that_is_done_is_known_by_what_it_was(tmp_path: Path) -> None:
    """Rows finish thousands a second: those since the last checkpoint are on record, too."""
    path = write_rows(tmp_path / "in.jsonl", prompts(40_000))
    out = tmp_path / "out.parquet"
    run = ("run", "-i", path, "-o", out, "--engine", "echo")
    killed = begin(*run, fault="kill:at=part.renamed,nth=15")
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    last = max(max(pq.read_table(part)["index"].to_pylist()) for part in parts_of(out))
    assert 5_000 < last < 39_000
    changed = [
        row | {"prompt": "another"} if i == last else row for i, row in enumerate(prompts(40_000))
    ]
    write_rows(path, changed)
    again = batchgen(*run)
    assert again.returncode == 4, again.stdout
    assert "of the input changed" in again.stderr
