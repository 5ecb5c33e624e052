"""The Triton attention backend computes what the oracle computes.

On a GPU everything runs compiled; elsewhere a small set runs in Triton's interpreter, in a process
of its own because Triton decides at its first import.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from triton_cases import SPEC, Case, Step, build, error, expected, on_device

from batchgen.engine.attention.interface import AttentionSpec

pytest.importorskip("triton", reason="triton is not installed: no CUDA backend to test")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
direct = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="runs in the interpreter's process"
)
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
MIXED = ((1, 40), (37, 37), (1, 1), (5, 70), (20, 53), (1, 129))

SMALL = {
    "decode": Case(((1, 1), (1, 17), (1, 100), (1, 300)), padded_seqs=2, padded_tokens=2),
    "mixed": Case(MIXED, padded_seqs=1, padded_tokens=3),
    "window": Case(MIXED, replace(SPEC, sliding_window=24)),
    "softcap and sinks": Case(MIXED, replace(SPEC, softcap=3.0, has_sinks=True)),
    "one long sequence": Case(((2, 600),), block_size=64),
    "odd heads": Case(MIXED, AttentionSpec(0, 6, 2, 24, 40, 0.2), block_size=32),
    "half precision": Case(MIXED, dtype=torch.float16),
}


def make_backend():
    from batchgen.engine.attention.triton_paged import TritonBackend

    return TritonBackend()


def filled_cache(backend, case: Case, step: Step, poison: float = float("nan")):
    """A cache that holds the past, and poison wherever nothing may be read."""
    device = step.query.device
    cache = backend.allocate(case.spec, step.num_blocks, case.block_size, case.dtype, device)
    for store, past in zip((cache.keys, cache.values), step.past, strict=True):
        store.fill_(poison)
        block, offset = step.past_slots // case.block_size, step.past_slots % case.block_size
        store[block, :, offset] = past
    return cache


def run(case: Case, step: Step) -> torch.Tensor:
    backend = make_backend()
    cache = filled_cache(backend, case, step)
    backend.prepare(step.metadata)
    return backend.forward(
        step.query, step.key, step.value, cache, case.spec, step.metadata, step.sinks
    )


def check(case: Case) -> None:
    step = build(case, DEVICE)
    tokens = step.metadata.num_tokens
    result = run(case, step)[:tokens]
    assert error(result, expected(case, step)[:tokens]) < TOLERANCE[case.dtype]


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the tests run directly")
def test_kernels_agree_with_the_oracle_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).name],
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@direct
@pytest.mark.parametrize("name", SMALL)
def test_a_ragged_step_agrees_with_the_oracle(name: str) -> None:
    check(SMALL[name])
