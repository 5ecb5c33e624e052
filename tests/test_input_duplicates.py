"""Duplicate ids are found exactly, at a bounded memory an id."""

from __future__ import annotations

import gc
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.job.fields.duplicates import SeenIds


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=3) | st.integers(0, 50).map(str), max_size=300))
def test_it_is_a_set(ids: list[str]) -> None:
    seen, truth = SeenIds(), set[str]()
    for id in ids:
        assert seen.add(id) is (id not in truth)
        truth.add(id)
    assert len(seen) == len(truth)


def test_every_id_is_found_again_after_thousands_of_splits() -> None:
    seen = SeenIds()
    ids = [f"row-{number}" for number in range(60_000)]
    assert all(seen.add(id) for id in ids)
    assert not any(seen.add(id) for id in ids)
    assert len(seen) == 60_000


def test_an_id_costs_less_than_12_bytes() -> None:
    gc.collect()
    tracemalloc.start()
    try:
        seen = SeenIds()
        for number in range(100_000):
            seen.add(f"row-{number}")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / 100_000 < 12
