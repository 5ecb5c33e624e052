"""Promise: a kept column of views (Arrow's newer strings) costs no job its end: rows that finish in
another order than the input's are sorted, and rows that failed are computed again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from echo_runs import batchgen
from ledger_tools import make_row, open_ledger

from batchgen.job.storage.part import Columns
from batchgen.job.stored_types import sortable

ROWS = 30
TEXTS = [f"a text that is longer than what a view holds by itself {i}" for i in range(ROWS)]


def write(path: Path, prompts: list[str | None]) -> Path:
    views = {
        "text": pa.array(TEXTS).cast(pa.string_view()),
        "bytes": pa.array([text.encode() for text in TEXTS]).cast(pa.binary_view()),
        "tags": pa.array([[text] for text in TEXTS], pa.list_(pa.string_view())),
    }
    pq.write_table(pa.table({"prompt": pa.array(prompts, pa.string_view()), **views}), path)
    return path


def test_shards_are_merged_and_failed_rows_retried(tmp_path: Path) -> None:
    prompts = [f"p {i}" for i in range(ROWS)]
    source = write(tmp_path / "in.parquet", [None, *prompts[1:]])
    out = tmp_path / "out.parquet"
    run = ("run", "-i", source, "-o", out, "--engine", "echo")
    for shard in ("1/2", "0/2"):
        done = batchgen(*run, "--shard", shard)
        assert done.returncode == (3 if shard == "0/2" else 0), done.stderr
    assert batchgen("merge", out).returncode == 3
    write(source, list(prompts))
    again = batchgen(*run, "--retry", "failed")
    assert again.returncode == 0, again.stderr
    table = pq.read_table(out)
    assert table["completion"].to_pylist() == prompts
    assert table["text"].to_pylist() == TEXTS
    assert table["bytes"].to_pylist() == [text.encode() for text in TEXTS]
    assert table["tags"].to_pylist() == [[text] for text in TEXTS]


def test_parts_of_earlier_versions_are_merged_too(tmp_path: Path) -> None:
    """They kept views as they were, and met the end of the job only then."""
    for index in (3, 0, 2, 1):
        kind = pa.string_view() if index % 2 else pa.string()
        with open_ledger(tmp_path, columns=Columns((("text", kind),))) as ledger:
            ledger.append([make_row(index, kept={"text": TEXTS[index]})])
    with open_ledger(tmp_path, columns=Columns((("text", pa.string()),))) as ledger:
        ledger.finalize(4)
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == TEXTS[:4]


def test_an_output_of_earlier_versions_can_be_taken_up_again() -> None:
    table = pa.table({"text": pa.array(TEXTS).cast(pa.string_view()), "n": range(ROWS)})
    odd = pa.array([i % 2 == 1 for i in range(ROWS)])
    assert sortable(table).filter(odd)["text"].to_pylist() == TEXTS[1::2]
    assert sortable(table).drop_columns("text").equals(table.drop_columns("text"))
