"""Runs of batchgen as processes, for scripts that measure them, kill one of their children and
compare what they wrote."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

__all__ = [
    "SAME", "WORDS", "batchgen", "equal_share", "parser_of", "run_and_kill", "summary_of",
    "wait_for_part",
]  # fmt: skip

_TEXT = "the small fox reads a long letter about rain and then walks home"
WORDS = _TEXT.split()
"""What prompts are drawn from."""
SAME = ["index", "sample", "id", "status", "completion", "finish_reason", "completion_tokens"]
"""Columns that no kill, resume or shard may change."""
_LONGEST_S = 3600.0
_MOMENT_S = 0.01


def batchgen(*words: object) -> list[str]:
    """The command of this checkout."""
    return [sys.executable, "-m", "batchgen", *map(str, words)]


def summary_of(command: Sequence[str]) -> dict[str, Any]:
    """What a run that must succeed prints when it ends."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=_LONGEST_S)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def run_and_kill(command: Sequence[str], out: Path, module: str) -> tuple[int, str]:
    """Exit code and last words of a run whose newest child of that module is killed once rows are
    finished."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for_part(process, out)
    os.kill(_children(process.pid, module)[-1], signal.SIGKILL)
    said = process.communicate(timeout=_LONGEST_S)[1].strip().splitlines()
    return process.returncode, " / ".join(said[-2:])


def wait_for_part(process: subprocess.Popen[Any], out: Path) -> None:
    """Until finished rows are on disk, or the run is over."""
    parts = Path(f"{out}.ckpt", "parts")
    while process.poll() is None and not any(parts.glob("*.parquet")):
        time.sleep(_MOMENT_S)


def equal_share(one: Path, other: Path) -> float:
    """Share of the rows of an output, in order, that another one has the same."""
    rows, others = (pq.read_table(path, columns=SAME).to_pylist() for path in (one, other))
    same = sum(a == b for a, b in zip(rows, others, strict=False))
    return same / max(len(rows), len(others))


def _children(parent: int, module: str) -> list[int]:
    """Process ids of those that run `module`, in the order of their start."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        for pid in (task / "children").read_text().split():
            if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return sorted(found)


def parser_of(doc: str | None, **defaults: int | str) -> argparse.ArgumentParser:
    """Whose help is the script's own words, as they stand, with a flag for each default."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser
