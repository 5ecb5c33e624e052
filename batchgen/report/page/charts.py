"""A report's charts, each with what it says in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchgen.counts import counted
from batchgen.report.page import svg
from batchgen.report.page.figures import Figures, Histogram
from batchgen.report.page.slots import Bar

__all__ = ["PART_NAMES", "charts_of", "slots_chart"]

PART_NAMES = {
    "queue_s": "waiting",
    "prefill_s": "reading the prompt",
    "decode_s": "writing the completion",
    "latency_s": "in all",
}
_SHADES = 5


def charts_of(figures: Figures) -> Iterator[tuple[str, str, str]]:
    """(heading, SVG, a word on how to read it)."""
    yield _over_time(figures, "throughput", "Completion tokens a second", figures.tokens_per_s)
    yield _over_time(figures, "live", "Sequences in the engine", [float(n) for n in figures.live])
    yield _slots(figures, "continuous", figures.slots.bars)
    yield _slots(figures, "static", figures.slots.static_bars)
    for part, histogram in figures.latencies.items():
        yield _latency(figures, part, histogram)
    yield _lengths(figures)


def _over_time(
    figures: Figures, name: str, title: str, values: Sequence[float]
) -> tuple[str, str, str]:
    highest = max(values, default=0.0)
    mean = sum(values) / len(values) if values else 0.0
    text = f"Mean {svg.short(mean)}, at most {svg.short(highest)}, over {figures.seconds:,.1f} s."
    body = [
        svg.y_axis(highest),
        svg.area(values, highest),
        _resumes(figures),
        svg.x_axis(_times(figures.seconds), "seconds of work, pauses between runs left out"),
    ]
    resumed = (
        f" Dashed: {counted(len(figures.runs) - 1, 'resume')}." if len(figures.runs) > 1 else ""
    )
    return title, svg.chart(name, title, text + resumed, body), text + resumed


def _resumes(figures: Figures) -> str:
    """A line where each run but the first began, named by its time."""
    lines = []
    for run in figures.runs[1:]:
        x = svg.LEFT + svg.INNER_WIDTH * run.begin / max(figures.seconds, 1e-9)
        lines.append(
            f'<path class="d" d="M{x:.1f} {svg.TOP}v{svg.INNER_HEIGHT}">'
            f"<title>resumed {run.at} UTC, {run.rows:,} rows</title></path>"
        )
    return "".join(lines)


def _times(seconds: float) -> list[tuple[float, str]]:
    return [(at / seconds, svg.short(at)) for at in svg.ticks(seconds)] if seconds else []


def _slots(figures: Figures, name: str, bars: Sequence[Bar]) -> tuple[str, str, str]:
    slots = figures.slots
    rows = max((bar.slot for bar in bars), default=0) + 1
    shown = f"{len(bars):,} of {slots.num_sequences:,} sequences, {rows} of {slots.num_slots} slots"
    if name == "continuous":
        title = "Slots, as they were filled (continuous batching)"
        text = f"{shown}. All took {slots.seconds:,.1f} s. Pale: reading the prompt."
    else:
        title = "Slots, had the same rows run in static batches"
        ratio = slots.static_seconds / slots.seconds if slots.seconds else 1.0
        text = (
            f"{shown}. All would have taken up to {slots.static_seconds:,.1f} s ({ratio:.2f}x): "
            "batches in the input's order, each row with the time that it took here."
        )
    return slots_chart(f"slots-{name}", title, text, bars)


def slots_chart(
    name: str, title: str, text: str, bars: Sequence[Bar], end: float = 0.0
) -> tuple[str, str, str]:
    """(heading, SVG, `text`): a line a slot. `end`: where the axis ends, if after the last bar."""
    end = max([end, *(bar.end for bar in bars)])
    rows = max((bar.slot for bar in bars), default=0) + 1
    pitch = svg.INNER_HEIGHT / rows
    scale = svg.INNER_WIDTH / max(end, 1e-9)

    def line(bar: Bar, begin: float, until: float) -> tuple[float, float, float]:
        y = svg.TOP + pitch * (bar.slot + 0.5)
        return y, svg.LEFT + begin * scale, svg.LEFT + until * scale

    body = [
        svg.spans("p", (line(bar, bar.begin, bar.first) for bar in bars), pitch * 0.8),
        svg.spans("w", (line(bar, bar.first, bar.end) for bar in bars), pitch * 0.8),
        svg.x_axis(_times(end), "seconds of work"),
    ]
    return title, svg.chart(name, title, text, body), text


def _latency(figures: Figures, part: str, histogram: Histogram) -> tuple[str, str, str]:
    title = f"Seconds a completion was {PART_NAMES[part]}"
    if part == "latency_s":
        title = "Seconds a completion took in all"
    elif part != "queue_s":
        title = f"Seconds of {PART_NAMES[part]}"
    found = figures.percentiles[part]
    text = ", ".join(f"{name} {value:.3g} s" for name, value in found.items()) or "no row has it"
    highest = float(max(histogram.counts, default=0))
    every = max(1, len(histogram.counts) // 8)
    marks = [
        (number / len(histogram.counts), f"{histogram.edges[number]:.2g}")
        for number in range(0, len(histogram.counts), every)
    ]
    body = [
        svg.y_axis(highest),
        svg.columns([float(count) for count in histogram.counts], highest),
        svg.x_axis(marks, "seconds (each column is wider than the one before)"),
    ]
    return title, svg.chart(part.replace("_", "-"), title, text, body), text


def _lengths(figures: Figures) -> tuple[str, str, str]:
    """Squares by prompt and completion tokens, darker where more rows are."""
    title = "Tokens read and written"
    bins = len(figures.length_edges) - 1
    wide, high = svg.INNER_WIDTH / bins, svg.INNER_HEIGHT / bins
    most = max((count for *_, count in figures.lengths), default=1)
    paths = [""] * _SHADES
    for x, y, count in figures.lengths:
        shade = min(int((count / most) ** 0.4 * _SHADES), _SHADES - 1)
        left = svg.LEFT + wide * x
        top = svg.TOP + svg.INNER_HEIGHT - high * (y + 1)
        paths[shade] += f"M{left:.1f} {top:.1f}h{wide:.1f}v{high:.1f}h-{wide:.1f}Z"
    marks = [
        (number / bins, svg.short(round(figures.length_edges[number])))
        for number in range(0, bins, max(1, bins // 8))
    ]
    sides = "".join(
        f'<text x="{svg.LEFT - 6}" y="{svg.TOP + svg.INNER_HEIGHT * (1 - share) + 3:.1f}" '
        f'class="r">{text}</text>'
        for share, text in marks[::2]
    )
    body = [
        *(f'<path class="a s{shade}" d="{path}"/>' for shade, path in enumerate(paths) if path),
        sides,
        svg.x_axis(marks, "prompt tokens; upwards: completion tokens"),
    ]
    total = sum(count for *_, count in figures.lengths)
    text = f"{total:,} completions; darker squares hold more, the darkest {most:,}."
    return title, svg.chart("lengths", title, text, body), text
