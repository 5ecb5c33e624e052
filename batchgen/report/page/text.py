"""The report in a terminal, for those over ssh: a few lines and two small charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchgen.report.page.charts import PART_NAMES
from batchgen.report.page.figures import Figures
from batchgen.report.page.svg import short

__all__ = ["sparkline", "text_of"]

_LEVELS = " ▁▂▃▄▅▆▇█"
_WIDTH = 55
_LONGEST_MESSAGE = 100


def text_of(figures: Figures) -> Iterator[str]:
    """Lines of some 80 characters, where names are short."""
    totals = figures.totals
    yield figures.name
    made = f"{totals['completions']:,} completions, {totals['failed']:,} failed"
    yield f"  {totals['rows']:,} rows, {made}"
    yield f"  {totals['prompt tokens']:,} tokens read, {totals['completion tokens']:,} written"
    yield from _over_time(figures)
    slots = figures.slots
    if slots.seconds:
        ratio = slots.static_seconds / slots.seconds
        yield f"  {slots.num_slots} slots; static batches: up to {ratio:.2f}x as long"
    for part, found in figures.percentiles.items():
        if found:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
            yield f"  {PART_NAMES[part]:<23}{shown} s"
    for one in figures.failures:
        id_, index, message = one.samples[0]
        message = message[:_LONGEST_MESSAGE]
        yield f"  {one.rows:,} {one.code}: first row {index} (id {id_}): {message}"


def _over_time(figures: Figures) -> Iterator[str]:
    live = [float(one) for one in figures.live]
    for name, values in (("tokens/s", figures.tokens_per_s), ("live", live)):
        if values:
            yield f"  {name:<9}{sparkline(values, _WIDTH)} at most {short(max(values))}"
    if figures.seconds:
        yield f"  {'':<9}0 s{figures.seconds:>{_WIDTH - 5},.1f} s"
    for run in figures.runs[1:]:
        yield f"  resumed at {run.begin:,.1f} s ({run.at} UTC), {run.rows:,} rows"


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` characters, each for the mean of a group of neighbours."""
    size = max(1, -(-len(values) // width))
    groups = [values[at : at + size] for at in range(0, len(values), size)]
    means = [sum(group) / len(group) for group in groups]
    highest = max(means, default=0.0) or 1.0
    return "".join(_LEVELS[round(mean / highest * (len(_LEVELS) - 1))] for mean in means)
