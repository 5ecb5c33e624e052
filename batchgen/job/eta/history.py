"""How fast a run has been, from what was seen of it now and then."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from batchgen.job.eta.lengths import Floats
from batchgen.job.eta.moment import Progress

__all__ = ["History", "Speed", "Trend"]

_NOTES = 500
"""A run of any length is remembered by about so many moments."""
_CROWDING_SPREAD = 0.02
"""Variance of the logarithm of rows in a step above which the run itself tells their cost."""
_CROWDING_DOUBT = 0.3
_LIKELY, _SURE = 2.0, 3.0
"""So many standard errors apart, two times perhaps differ, or are taken to."""


class Speed(NamedTuple):
    """Over some seconds: tokens a second of all rows, how many ran, how many finished."""

    seconds: float
    rate: float
    slots: float
    rows: float

    @property
    def pace(self) -> float:
        """Tokens a second of one row."""
        return self.rate / self.slots


@dataclass(frozen=True, slots=True)
class Trend:
    """Seconds between two rows to come, where rows that finished tell that they change, as in a
    file that is sorted: `likely`, and where it goes further."""

    likely: float
    far: float
    is_sure: bool


class History:
    """Moments of a run; between two of them all goes on evenly."""

    def __init__(self) -> None:
        # Seconds, tokens, finished rows, row-seconds in slots, tokens of a row that always ran.
        self._notes: list[tuple[float, float, float, float, float]] = []
        self._columns: Floats = np.zeros((5, 0))
        self._running = 0.0

    def note(self, seen: Progress) -> None:
        """One more moment, in place of the last one where that was a moment ago."""
        now, made = seen.now, float(seen.made_tokens)
        then, made_then, _, slots, tokens = self._notes[-1] if self._notes else (now, made, 0, 0, 0)
        there = max((self._running + seen.running) / 2, 1.0)
        self._running = float(seen.running)
        slots, tokens = slots + there * (now - then), tokens + (made - made_then) / there
        if len(self._notes) > 1 and then - self._notes[-2][0] < self.elapsed / _NOTES:
            self._notes.pop()
        self._notes.append((now, made, float(seen.rows), slots, tokens))
        self._columns = np.array(self._notes).T

    @property
    def elapsed(self) -> float:
        """Seconds from the first moment to the last."""
        return self._notes[-1][0] - self._notes[0][0] if self._notes else 0.0

    def speed(self, seconds: float, before: float = 0.0) -> Speed:
        """Over so many seconds that ended so many seconds `before` the last moment."""
        ended = self._notes[-1][0] - before
        began = max(ended - seconds, self._notes[0][0])
        _, tokens, rows, slots, _ = self._at(ended) - self._at(began)
        seconds = max(ended - began, 1e-6)
        slots = max(slots / seconds, 1.0)
        return Speed(seconds, float(tokens) / seconds, float(slots), float(rows))

    def ages(self, begun_at: Floats) -> Floats:
        """Tokens that rows that began then have made."""
        tokens = self._columns[4]
        return np.asarray(tokens[-1] - np.interp(begun_at, self._columns[0], tokens))

    def crowding(self, expected: float, seconds: float) -> tuple[float, float]:
        """The power of its rows with which a step's time grew over so many seconds, and how far
        it may be off."""
        there = self._columns[0, 1:] > self._columns[0, -1] - seconds
        steps = np.diff(self._columns)[:, there]
        steps = steps[:, (steps[0] > 0) & (steps[1] > 0)]
        if not steps.size:
            return expected, _CROWDING_DOUBT
        weight = steps[0] / steps[0].sum()
        rows, pace = np.log(steps[3] / steps[0]), np.log(steps[1] / steps[3])
        rows, pace = rows - weight @ rows, pace - weight @ pace
        told = _CROWDING_SPREAD + float(weight @ rows**2)
        slowing = _CROWDING_SPREAD * expected - float(weight @ (rows * pace))
        return min(max(slowing / told, 0.0), 1.0), _CROWDING_DOUBT * _CROWDING_SPREAD / told

    def trend(self, rows_left: int, spread: float) -> Trend | None:
        """The line through the second and the last quarter of the time, gone on with, where those
        two differ. `spread`: of rows' lengths, by their mean."""
        quarter = self.elapsed / 4
        earlier, later = self.speed(quarter, 2 * quarter), self.speed(quarter)
        if min(earlier.rows, later.rows) < 1:
            return None
        before, now = earlier.seconds / earlier.rows, later.seconds / later.rows
        error = spread * math.hypot(earlier.rows**-0.5, later.rows**-0.5)
        error = math.hypot(error, later.slots / later.rows / _SURE)  # rows may come in waves
        errors = abs(math.log(now / before)) / error
        if errors < _LIKELY:
            return None
        between = (earlier.rows + later.rows) / 2 + self.speed(quarter, quarter).rows
        change = (now - before) / between * (later.rows + rows_left) / 2
        far = change * (1 + _LIKELY / errors)
        return Trend(max(now + change, now / 10), max(now + far, now / 10), errors > _SURE)

    def _at(self, moment: float) -> Floats:
        return np.array([np.interp(moment, self._columns[0], each) for each in self._columns])
