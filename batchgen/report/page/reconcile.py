"""A report's figures held against the file once more, by other means than those that made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from batchgen.report.page.table import Ints, Table

__all__ = ["Checked", "reconciled"]

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Checked:
    """One figure: what the report says and what the file says."""

    name: str
    reported: float
    found: float

    @property
    def agrees(self) -> bool:
        """But for rounding."""
        return abs(self.reported - self.found) <= _ROUNDING * max(1.0, abs(self.found))


def reconciled(figures: dict[str, Any], table: Table) -> Iterator[Checked]:
    """`figures`: of `report --json`, or as a page holds them."""
    column, totals = table.column, figures["totals"]
    for name, found in _totals(table).items():
        yield Checked(name, totals[name], found)
    if table.provenance.get("input rows") is not None:
        yield Checked("rows by the footer", totals["rows"], table.provenance["input rows"])
    errors = _counts(column("error_code"))
    errors.pop(None, None)
    reported = {one["code"]: one["rows"] for one in figures["failures"]}
    for code in sorted(errors.keys() | reported.keys()):
        yield Checked(f"failed: {code}", reported.get(code, 0), errors.get(code, 0))
    yield from _times(figures, table)
    ok = _sum(pc.equal(column("status"), "ok"))
    yield Checked("lengths: completions", sum(cell[2] for cell in figures["lengths"]), ok)
    seconds, rates = figures["seconds"], figures["tokens_per_s"]
    made = sum(rates) * seconds / len(rates) if rates else 0.0
    timed = column("completion_tokens").filter(pc.is_valid(column("latency_s")))
    yield Checked("throughput: tokens", made, _sum(timed))
    yield Checked("slots: sequences", figures["slots"]["num_sequences"], len(timed))
    spent = sum(run["end"] - run["begin"] for run in figures["runs"])
    yield Checked("seconds: of the runs", seconds, spent)


def _totals(table: Table) -> dict[str, int]:
    column = table.column
    first = column("prompt_tokens").filter(pc.equal(column("sample"), 0))
    status = _counts(column("status"))
    return {
        "rows": _distinct(table.ints("index")),
        "completions": status.get("ok", 0),
        "failed": status.get("error", 0),
        "skipped": status.get("skipped", 0),
        "cut by max_tokens": _sum(pc.equal(column("finish_reason"), "length")),
        "prompt tokens": _sum(first),
        "completion tokens": _sum(column("completion_tokens")),
        "cached tokens": _sum(column("cached_tokens")),
        "preemptions": _sum(column("preemptions")),
        "begun more than once": _sum(pc.greater(column("attempt"), 1)),
    }


def _times(figures: dict[str, Any], table: Table) -> Iterator[Checked]:
    for part, found in figures["percentiles"].items():
        values = table.column(part).drop_null()
        yield Checked(f"{part}: histogram", sum(figures["latencies"][part]["counts"]), len(values))
        for name, value in found.items():
            at = pc.quantile(values, q=int(name[1:]) / 100)[0].as_py()
            yield Checked(f"{part}: {name}", value, at)


def _counts(values: Any) -> dict[Any, int]:
    return {one["values"]: one["counts"] for one in values.value_counts().to_pylist()}


def _distinct(values: Ints) -> int:
    """Arrow's own count takes 250 bytes a row."""
    return int(np.count_nonzero(np.diff(np.sort(values)))) + bool(len(values))


def _sum(values: Any) -> int:
    return int(pc.sum(values).as_py() or 0)
