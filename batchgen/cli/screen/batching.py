"""What `batchgen bench --static` shows: a table, a picture in the terminal, a page, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from batchgen.engine.config import EngineConfig

__all__ = ["show_batching"]

_COLUMNS = ("workload", "slots", "way", "wall_s", "output_tokens_per_s", "ratio")
_FEW_ROWS = 6


def show_batching(
    config: EngineConfig, workloads: Mapping[str, Sequence[Any]], flags: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure each workload and show it; returns all of it for JSON."""
    from batchgen.report.batching import compare
    from batchgen.report.bench import format_table
    from batchgen.report.page.batching import batching_page, lanes_text

    found = []
    for name, work in workloads.items():
        slots = flags["slots"] or (2 if len(work) <= _FEW_ROWS else 8)
        one = compare(config, name, work, slots, flags["repeats"] or 1)
        found.append(one)
        for line in lanes_text(f"{name}: {len(work)} rows, {slots} slots", one.lanes):
            click.echo(line, err=True)
    rows = [row for one in found for row in one.rows()]
    click.echo(format_table(rows, _COLUMNS), err=True)
    if flags["to"]:
        groups = [(f"{one.workload}, {one.num_slots} slots", one.lanes) for one in found]
        facts = ", ".join(str(value) for value in found[0].facts.values())
        cells = [tuple(str(row[name]) for name in _COLUMNS) for row in rows]
        page = batching_page("Continuous and static batching", facts, groups, _COLUMNS, cells)
        flags["to"].write_text(page, encoding="utf-8")
    equal = {one.workload: one.equal_tokens for one in found}
    return {**found[0].facts, "equal_tokens": equal, "results": rows}
