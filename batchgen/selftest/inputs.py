"""The inputs of selftests: rows of every kind, the same for the same number and seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["mixed_rows", "write_lines"]

_TEXT = "a small fox reads the long letter about rain then walks home to its old friends"
_WORDS = _TEXT.split()


def mixed_rows(count: int, seed: int = 0) -> Iterator[str]:
    """Lines: greedy and sampled rows, several samples, without id, with extras; 1 in 40 is bad."""
    chosen = random.Random(seed)
    for i in range(count):
        row: dict[str, Any] = {"id": f"row-{i}", "prompt": " ".join(chosen.choices(_WORDS, k=6))}
        if i % 3 == 1:
            row |= {"temperature": 1.0, "top_p": 0.9}
        if i % 10 == 4:
            row |= {"temperature": 0.7, "n": 2, "seed": i}
        if i % 10 == 7:
            del row["id"]
        if i % 5 == 0:
            row["tag"] = f"t{i % 7}"
        yield '{"prompt": "never closed' if i % 40 == 39 else json.dumps(row)


def write_lines(path: Path, lines: Iterator[str]) -> Path:
    """A file with one line each."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    return path
