from __future__ import annotations

import resource

import pytest
import torch

from batchgen.engine.attention.lazy_memory import lazy_zeros


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_they_are_zeros_of_their_own_page_aligned_and_writable(dtype: torch.dtype) -> None:
    first, second = (lazy_zeros(5, 7, 11, dtype=dtype) for _ in range(2))
    assert first.shape == (5, 7, 11)
    assert first.dtype == dtype
    assert first.data_ptr() % 4096 == 0
    first += 1
    assert int((first == 1).sum()) == first.numel()
    assert not second.any()
    assert lazy_zeros(0, 3, dtype=dtype).shape == (0, 3)


def test_what_is_not_touched_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cache = lazy_zeros(1 << 20, 1 << 10, dtype=torch.float32)  # 4 GiB
    cache[5] = 1.0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << 10  # KiB
