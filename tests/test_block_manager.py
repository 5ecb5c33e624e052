from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.engine.scheduling.block_manager import BlockManager


def test_a_table_grows_by_whole_blocks_only_when_it_must() -> None:
    manager = BlockManager(8, 4)
    table: list[int] = []
    assert [len(manager.append(table, n)) for n in (1, 4, 5, 16)] == [1, 0, 1, 2]
    assert len(set(table)) == 4
    assert manager.num_free == 4


def test_running_out_is_an_error_and_changes_nothing() -> None:
    manager = BlockManager(2, 4)
    table: list[int] = []
    with pytest.raises(RuntimeError, match="3 blocks needed, 2 of 2 free"):
        manager.append(table, 12)
    manager.check_integrity([table])


def test_a_shared_block_returns_with_its_last_owner() -> None:
    manager = BlockManager(4, 4)
    first: list[int] = []
    manager.append(first, 8)
    second = manager.share(first)
    manager.free(first)
    assert manager.num_free == 2
    manager.check_integrity([first, second])
    manager.free(second)
    assert manager.num_free == 4


def test_freeing_twice_and_sharing_what_nobody_owns_are_errors() -> None:
    manager = BlockManager(4, 4)
    table: list[int] = []
    manager.append(table, 4)
    copy = list(table)
    manager.free(table)
    with pytest.raises(RuntimeError, match="freed twice"):
        manager.free(copy)
    with pytest.raises(RuntimeError, match="no owner"):
        manager.share([0])


def test_a_leak_is_found() -> None:
    manager = BlockManager(4, 4)
    manager.append([], 4)
    with pytest.raises(RuntimeError, match="wrong number of owners"):
        manager.check_integrity([])


@given(st.lists(st.tuples(st.sampled_from("afs"), st.integers(0, 5), st.integers(1, 20))))
def test_no_sequence_of_calls_leaks_or_doubles_a_block(calls: list[tuple[str, int, int]]) -> None:
    manager = BlockManager(16, 4)
    tables: list[list[int]] = [[] for _ in range(6)]
    for call, index, num_tokens in calls:
        table = tables[index]
        if call == "f":
            manager.free(table)
        elif call == "s" and not table:
            tables[index] = manager.share(tables[(index + 1) % 6])
        elif manager.num_blocks_needed(table, num_tokens) <= manager.num_free:
            manager.append(table, num_tokens)
        manager.check_integrity(tables)
