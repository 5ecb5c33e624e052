"""Memory does not grow with the input."""

from __future__ import annotations

from pathlib import Path

from echo_runs import batchgen, summary_of, write_rows

FEW, MANY = 300_000, 420_000  # past the final merge's window, which fills up to there
PROMPT = "a prompt of about a hundred characters, as people write them when they are in a hurry, "


def peak(tmp_path: Path, rows: int) -> int:
    source = write_rows(
        tmp_path / f"{rows}.jsonl", ({"id": f"r{i}", "prompt": f"{PROMPT}{i}"} for i in range(rows))
    )
    result = batchgen("run", "-i", source, "-o", tmp_path / f"{rows}.parquet", "--engine", "echo")
    assert result.returncode == 0, result.stderr
    return int(summary_of(result)["peak_memory_bytes"])


def test_a_longer_input_takes_no_more_memory(tmp_path: Path) -> None:
    """Rows held in memory would cost several hundred bytes each; allowed are 16, and what the
    allocator's habits add: 30 MB."""
    growth = peak(tmp_path, MANY) - peak(tmp_path, FEW)
    assert growth < 16 * (MANY - FEW) + 30_000_000
