"""The tests of Triton's kernels, in its interpreter where there is no GPU."""

from __future__ import annotations

import pytest
from triton_interpreter import run_interpreted, spawns

pytest.importorskip("triton", reason="triton is not installed: no CUDA backend to test")


@spawns
@pytest.mark.parametrize(
    "files",
    [
        (
            *("test_triton_attention.py", "test_steady_kernels.py", "test_shared_reads.py"),
            *("test_triton_sampling.py", "test_device_sampler.py", "test_gated_mlp.py"),
        ),
        (
            *("test_triton_adapters.py", "test_triton_quantized.py", "test_triton_experts.py"),
            *("test_triton_routers.py", "test_block_copies.py"),
        ),
    ],
    ids=" ".join,
)
def test_kernels_do_what_their_tests_say_in_the_interpreter(files: tuple[str, ...]) -> None:
    """Few processes: each imports torch."""
    run_interpreted(*files, only="answer or not test_shared_reads")
