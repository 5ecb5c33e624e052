"""Who was in which slot when, one way of batching beside another: as a page, and in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchgen.report.page.charts import slots_chart
from batchgen.report.page.html import figure, shell, table
from batchgen.report.page.slots import Bar

__all__ = ["Lane", "batching_page", "lanes_text"]

_WIDTH, _MOST_LINES = 64, 16
_EXPLAINED = {
    "continuous": "A slot is filled as soon as it is free.",
    "static": "A batch waits for its longest row; the slots of finished rows stay empty.",
    "padded": "The same, and finished rows are computed on to the longest one's length.",
}


@dataclass(frozen=True, slots=True)
class Lane:
    """One way's run: how long it took, and its sequences' bars in seconds since it began."""

    way: str
    seconds: float
    bars: list[Bar]


def batching_page(name: str, headline: str, groups: Sequence[tuple[str, Sequence[Lane]]],
                  heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:  # fmt: skip
    """`groups`: (title, the ways of one workload), drawn to one scale each; `rows`: the figures."""
    sections = [table("Figures", heads, rows)]
    for number, (title, lanes) in enumerate(groups):
        end = max(lane.seconds for lane in lanes)
        drawn = (
            slots_chart(
                f"slots-{number}-{lane.way}", f"{title}: {lane.way}, {lane.seconds:.2f} s",
                _EXPLAINED[lane.way] + " Pale: reading the prompt.", lane.bars, end,
            )
            for lane in lanes
        )  # fmt: skip
        sections.append(f'<div class="grid">{"".join(figure(*one) for one in drawn)}</div>')
    return shell(name, headline, sections)


def lanes_text(title: str, lanes: Sequence[Lane]) -> Iterator[str]:
    """A line a slot, all ways to one scale: `░` reads the prompt, `█` writes."""
    end = max(lane.seconds for lane in lanes)
    yield title
    for lane in lanes:
        yield f"  {lane.way}, {lane.seconds:.2f} s"
        last = max(bar.slot for bar in lane.bars)
        for slot in range(min(last + 1, _MOST_LINES)):
            yield f"    {_line([bar for bar in lane.bars if bar.slot == slot], end)}".rstrip()


def _line(bars: Sequence[Bar], end: float) -> str:
    cells = [" "] * (_WIDTH + 1)
    for bar in bars:
        begin, first, last = (round(at / end * _WIDTH) for at in (bar.begin, bar.first, bar.end))
        cells[begin : max(last, begin + 1)] = "█" * max(last - begin, 1)
        cells[begin:first] = "░" * (first - begin)
    return "".join(cells[:_WIDTH])
