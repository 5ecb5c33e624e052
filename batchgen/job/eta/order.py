"""Whether `max_tokens` change along an input, as they do in one that is sorted."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Drift", "ReadingOrder", "drift", "nearest"]

_LIKELY, _SURE = 2.0, 3.0
"""So many standard errors from no change, one is perhaps there, or is taken to be."""
_LEAST = 0.1


class Drift(NamedTuple):
    """What comes, by what came so far: `likely`, and where it goes `far`."""

    likely: float = 1.0
    far: float = 1.0


class ReadingOrder(NamedTuple):
    """Sums over rows as they were read: of their places x and of their `max_tokens` y."""

    rows: int = 0
    y: int = 0
    yy: int = 0
    xy: int = 0

    def read(self, most: int) -> ReadingOrder:
        """One more row."""
        rows, y, yy, xy = self
        return ReadingOrder(rows + 1, y + most, yy + most * most, xy + rows * most)

    def drift(self, rows_left: float) -> Drift:
        """Of `max_tokens` of so many rows that are not read yet: the line through those read, gone
        on with, where it is one."""
        rows = self.rows
        if rows < 3 or not self.y:
            return Drift()
        spread_x = rows * (rows * rows - 1) / 12
        covered = self.xy - self.y * (rows - 1) / 2
        spread_y = max(self.yy - self.y * self.y / rows, 0.0)
        slope = covered / spread_x
        error = math.sqrt(max(spread_y - slope * covered, 0.0) / (rows - 2) / spread_x)
        return drift(1 + slope * (rows + rows_left) / 2 * rows / self.y, slope, error)


def drift(there: float, slope: float, error: float) -> Drift:
    """Of what gets `there`, by what came so far, if its `slope` with this standard error is to be
    believed."""
    if not slope or abs(slope) < _LIKELY * error:
        return Drift()
    far = 1 + (there - 1) * (1 + _LIKELY * error / abs(slope))
    likely = there if abs(slope) > _SURE * error else 1.0
    return Drift(max(likely, _LEAST), max(far, _LEAST))


def nearest(one: Drift, other: Drift) -> Drift:
    """What two measures of the same agree on."""
    return Drift(*(_nearest(*both) for both in zip(one, other, strict=True)))


def _nearest(one: float, other: float) -> float:
    if (one - 1) * (other - 1) <= 0:
        return 1.0
    return min(one, other) if one > 1 else max(one, other)
