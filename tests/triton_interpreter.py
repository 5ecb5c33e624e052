"""Triton's interpreter, for machines without a GPU: in a process of its own, because Triton decides
at its first import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DIRECT = INTERPRETED or torch.cuda.is_available()
direct = pytest.mark.skipif(not DIRECT, reason="runs in the interpreter's process")
spawns = pytest.mark.skipif(DIRECT, reason="the tests run directly")


def run_interpreted(*files: str, only: str = "") -> None:
    """The tests of these files that need no GPU, interpreted."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not cuda"),
            *("-k", only, *files),
        ],
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=230,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
