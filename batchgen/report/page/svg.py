"""The few shapes that a report's charts are made of, as SVG text. Colours are CSS classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

__all__ = [
    "INNER_HEIGHT", "INNER_WIDTH", "LEFT", "TOP", "area", "chart", "columns", "short", "spans",
    "ticks", "x_axis", "y_axis",
]  # fmt: skip

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 10, 34
INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


def chart(name: str, title: str, description: str, body: Iterable[str]) -> str:
    """A chart with its title and what it says in words, reachable by keyboard."""
    return (
        f'<svg id="{name}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(description)}</desc>{"".join(body)}</svg>'
    )


def area(values: Sequence[float], highest: float) -> str:
    """Steps from left to right, filled down to the axis."""
    if not values:
        return ""
    width = INNER_WIDTH / len(values)
    points = [
        f"H{_n(LEFT + width * number)}V{_n(_y(value, highest))}H{_n(LEFT + width * (number + 1))}"
        for number, value in enumerate(values)
    ]
    floor = TOP + INNER_HEIGHT
    return f'<path class="a" d="M{LEFT} {floor}{"".join(points)}V{floor}Z"/>'


def columns(values: Sequence[float], highest: float) -> str:
    """Bars side by side with a little room between."""
    width = INNER_WIDTH / max(len(values), 1)
    floor, path = TOP + INNER_HEIGHT, ""
    for number, value in enumerate(values):
        if value:
            left, top = _n(LEFT + width * number + 0.5), _n(_y(value, highest))
            path += f"M{left} {floor}V{top}h{_n(width - 1)}V{floor}Z"
    return f'<path class="a" d="{path}"/>'


def spans(kind: str, lines: Iterable[tuple[float, float, float]], thickness: float) -> str:
    """Horizontal strokes (y, begin, end), all of one kind in one path."""
    path = "".join(f"M{_n(begin)} {_n(y)}h{_n(max(end - begin, 0.3))}" for y, begin, end in lines)
    return f'<path class="{kind}" stroke-width="{_n(thickness)}" d="{path}"/>' if path else ""


def x_axis(marks: Iterable[tuple[float, str]], label: str) -> str:
    """Marks at shares of the width, from 0 to 1."""
    floor = TOP + INNER_HEIGHT
    texts = [_text(LEFT + INNER_WIDTH * share, floor + 14, "m", text) for share, text in marks]
    texts.append(_text(LEFT + INNER_WIDTH / 2, HEIGHT - 4, "m", label))
    return f'<path class="x" d="M{LEFT} {floor}h{INNER_WIDTH}"/>{"".join(texts)}'


def y_axis(highest: float) -> str:
    """Lines across at round values."""
    parts = []
    for value in ticks(highest):
        y = _y(value, highest)
        parts.append(f'<path class="g" d="M{LEFT} {_n(y)}h{INNER_WIDTH}"/>')
        parts.append(_text(LEFT - 6, y + 3, "r", short(value)))
    return "".join(parts)


def _text(x: float, y: float, kind: str, text: str) -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" class="{kind}">{escape(text)}</text>'


def ticks(highest: float) -> list[float]:
    """Three to six round values from 0 to `highest`."""
    if highest <= 0:
        return [0.0]
    rough = highest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough * 0.99)
    return [step * number for number in range(int(highest / step + 1e-9) + 1)]


def short(value: float) -> str:
    """`1.2k`, `35`, `0.05`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _y(value: float, highest: float) -> float:
    return TOP + INNER_HEIGHT * (1 - (value / highest if highest > 0 else 0.0))


def _n(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")
