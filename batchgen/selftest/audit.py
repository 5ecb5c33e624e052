"""What must hold when a battered job is complete."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from batchgen.counts import counted
from batchgen.job.storage.layout import list_parts
from batchgen.job.verbs.compare import compare

__all__ = ["begun_again", "differences", "leftovers"]


def leftovers(out: Path) -> list[str]:
    """Temporary files beside the output and in its checkpoint folder, and parts not removed."""
    folder = out.with_name(out.name + ".ckpt")
    found = [*out.parent.glob(f".{out.name}*"), *folder.rglob("*")]
    temporary = [path.name for path in found if path.suffix in (".tmp", ".new")]
    return sorted(temporary + [path.name for path in list_parts(folder / "parts")])


def differences(whole: Path, out: Path) -> list[str]:
    """In what the output differs from an unbroken run's; [] where rows, order and values agree."""
    result = compare(whole, out)
    said = [f"row {found.key}: {found.columns}" for found in result.differences]
    said += [f"lost row {key}" for key in result.only_a] + [f"extra row {k}" for k in result.only_b]
    unequal = result.common - result.equal - len(result.differences)
    more = counted(unequal, "more row that differs", "more rows that differ")
    said += [f"and {more}"] if unequal else []
    keys = [pq.read_table(path, columns=["index", "sample"]) for path in (whole, out)]
    if not keys[0].equals(keys[1]):
        said.append("the rows are in another order")
    if not result.same and not said:
        said.append(f"columns differ: {result.columns_only_a} {result.columns_only_b}")
    return said


def begun_again(out: Path) -> int:
    """Times that a row was begun by a later run after an earlier one had begun it in vain."""
    table = pq.read_table(out, columns=["sample", "attempt"])
    firsts = table.filter(table["sample"].to_numpy() == 0)["attempt"].to_pylist()
    return sum(attempt - 1 for attempt in firsts if attempt > 1)
