"""`diff` matches what a plain search would match, in memory that hardly grows with the rows."""

from __future__ import annotations

import random
import tracemalloc
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.job.verbs import compare as module
from batchgen.job.verbs.compare import Comparison, compare

Rows = list[tuple[str, str]]


def write(path: Path, rows: Rows, group: int = 7) -> Path:
    columns = {
        "id": [row_id for row_id, _ in rows],
        "sample": pa.array([0] * len(rows), pa.int32()),
        "completion": [text for _, text in rows],
    }
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def searched(a: Rows, b: Rows, show: int) -> Comparison:
    """The n-th row of an id against the n-th of it there, looked for one by one."""
    there: dict[str, list[int]] = defaultdict(list)
    for place, (row_id, _) in enumerate(b):
        there[row_id].append(place)
    found = Comparison(("completion",), rows_a=len(a), rows_b=len(b))
    nth: dict[str, int] = defaultdict(int)
    taken = set()
    for row_id, text in a:
        at, nth[row_id] = nth[row_id], nth[row_id] + 1
        if at >= len(there[row_id]):
            found.only_a.append((row_id, 0))
            continue
        place = there[row_id][at]
        taken.add(place)
        found.common += 1
        if b[place][1] == text:
            found.equal += 1
        else:
            changed = {"completion": (text, b[place][1])}
            found.differences.append(module.Difference((row_id, 0), changed))
    found.only_b = [(row_id, 0) for place, (row_id, _) in enumerate(b) if place not in taken]
    found.only_a, found.only_b = found.only_a[:show], found.only_b[:show]
    found.differences = found.differences[:show]
    return found


@pytest.mark.parametrize("ids", [3, 40, 1000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_are_matched_as_by_a_plain_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: int, shuffled: bool
) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", 10)
    monkeypatch.setattr(module, "_AT_ONCE", 16)
    rng = random.Random(ids)
    for _ in range(15):
        a = [(f"r{rng.randrange(ids)}", rng.choice("xyz")) for _ in range(rng.randrange(120))]
        b = [(row_id, rng.choice("xyz") if rng.random() < 0.3 else text) for row_id, text in a]
        if shuffled:
            rng.shuffle(b)
            b = b[: rng.randrange(len(b) + 1)] + [(f"n{n}", "x") for n in range(rng.randrange(4))]
        files = write(tmp_path / "a.parquet", a), write(tmp_path / "b.parquet", b, group=11)
        show = rng.choice([0, 3, 1000])
        assert compare(*files, on="id", show=show) == searched(a, b, show)


def test_files_are_compared_in_little_memory(tmp_path: Path) -> None:
    """Ten million rows of the same input are compared in the memory of a few thousand; of inputs in
    another order at 60 bytes a row, where there were 110."""
    count = 150_000
    names = [f"row-{number}" for number in range(count)]
    orders = {"a": names, "b": names, "c": names[1:] + names[:1]}
    for name, ids in orders.items():
        table = {"id": ids, "sample": np.zeros(count, np.int32), "completion": ids}
        pq.write_table(pa.table(table), tmp_path / name, row_group_size=65_536)
    del names, orders
    for other, most in (("b", 9_000_000), ("c", 60 * count + 9_000_000)):
        tracemalloc.start()
        found = compare(tmp_path / "a", tmp_path / other, on="id")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.equal == count
        assert peak < most
