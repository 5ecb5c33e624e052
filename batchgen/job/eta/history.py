"""How fast a run has been, from what was seen of it now and then."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from batchgen.job.eta.lengths import Floats
from batchgen.job.eta.moment import Progress
from batchgen.job.eta.order import Drift, drift, nearest

__all__ = ["History", "Speed"]

_NOTES = 500
"""A run of any length is remembered by about so many moments."""
_CROWDING_SPREAD = 0.02
"""Variance of the logarithm of rows in a step above which the run itself tells their cost."""
_CROWDING_DOUBT = 0.3
_PROMPT_SPREAD = 0.1
"""Variance of prompts by tokens made, by its mean's square, above which the run itself tells what
they cost."""
_GENERATIONS = 2
"""So many times what runs must have ended in a quarter to say how long rows are then."""
_WAVES = 1 / 3
"""Of what runs, so much may have ended a moment earlier or later: rows may come in waves."""


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


class History:
    """Moments of a run; between two of them all goes on evenly."""

    def __init__(self) -> None:
        # Seconds, tokens, finished rows, row-seconds in slots, tokens of a row that always ran,
        # computed tokens of prompts.
        self._notes: list[tuple[float, float, float, float, float, float]] = []
        self._finished: list[Floats] = []  # samples by class, and their tokens
        self._columns: Floats = np.zeros((6, 0))
        self._running = 0.0
        self.prompt_cost = 0.0
        """Of a token of a prompt, in tokens made."""

    def note(self, seen: Progress) -> None:
        """One more moment, in place of the last one where that was a moment ago."""
        now, made = seen.now, float(seen.made_tokens)
        last = self._notes[-1] if self._notes else (now, made, 0.0, 0.0, 0.0, 0.0)
        then, made_then, _, slots, tokens, _ = last
        there = max((self._running + seen.running) / 2, 1.0)
        self._running = seen.running
        slots, tokens = slots + there * (now - then), tokens + (made - made_then) / there
        if len(self._notes) > 1 and then - self._notes[-2][0] < self.elapsed / _NOTES:
            self._notes.pop()
            self._finished.pop()
        prompts = float(seen.read.computed_prompt_tokens)
        self._notes.append((now, made, float(seen.rows), slots, tokens, prompts))
        lengths = seen.lengths
        self._finished.append(np.append(lengths.counts.sum(axis=1), float(lengths.num_tokens)))
        self._columns = np.array(self._notes).T

    @property
    def elapsed(self) -> float:
        """Seconds from the first moment to the last."""
        return self._notes[-1][0] - self._notes[0][0] if self._notes else 0.0

    def speed(self, seconds: float, before: float = 0.0) -> Speed:
        """Over so many seconds that ended so many seconds `before` the last moment."""
        ended = self._notes[-1][0] - before
        began = max(ended - seconds, self._notes[0][0])
        _, tokens, rows, slots, _, prompts = self._at(ended) - self._at(began)
        seconds = max(ended - began, 1e-6)
        slots = max(slots / seconds, 1.0)
        rate = float(tokens + self.prompt_cost * prompts) / seconds
        return Speed(seconds, rate, float(slots), float(rows))

    def slowest_and_fastest(self, others: list[Speed]) -> tuple[Speed, Speed]:
        """Of these, of the last quarter of the time and of those before it, the first one, as a run
        warms up, left out. A slow quarter counts with the next one: a run that stood still for some
        seconds is not taken to do so for long."""
        quarter = self.elapsed / 4
        last, *before = (self.speed(quarter, number * quarter) for number in range(3))
        slow = [*others, last, self.speed(2 * quarter, quarter)]
        fast = [*others, last, *before]
        moved = [one for one in slow if one.rate > 0]  # one of `others` did
        return min(moved, key=lambda one: one.rate), max(fast, key=lambda one: one.rate)

    def learn_prompt_cost(self, expected: float) -> None:
        """Of a token of a prompt, in tokens made, from how seconds grew with them so far."""
        seconds, made, _, _, _, prompts = np.diff(self._columns)
        there = made > 0
        weight = made[there] / max(made[there].sum(), 1.0)
        share, cost = prompts[there] / made[there], seconds[there] / made[there]
        mean_share, mean_cost = float(weight @ share), float(weight @ cost)
        doubt = _PROMPT_SPREAD * max(mean_share**2, 1e-9)
        slope = doubt * expected * mean_cost / (1 + expected * mean_share)
        slope += float(weight @ ((share - mean_share) * (cost - mean_cost)))
        slope /= doubt + float(weight @ (share - mean_share) ** 2)
        self.prompt_cost = min(max(slope / max(mean_cost - slope * mean_share, 1e-9), 0.0), 1.0)

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
        work = steps[1] + self.prompt_cost * steps[5]
        rows, pace = np.log(steps[3] / steps[0]), np.log(work / steps[3])
        rows, pace = rows - weight @ rows, pace - weight @ pace
        told = _CROWDING_SPREAD + float(weight @ rows**2)
        slowing = _CROWDING_SPREAD * expected - float(weight @ (rows * pace))
        return min(max(slowing / told, 0.0), 1.0), _CROWDING_DOUBT * _CROWDING_SPREAD / told

    def drift(self, tokens_of: Floats, spread: float, running: float, to_come: float) -> Drift:
        """Of lengths beside those expected of their class, `tokens_of` each, [num_classes]: the
        line through the second and the last quarter of the time, gone on with.

        `spread`: of lengths of one class, by their mean; `running`, `to_come`: expected tokens of
        all samples that run and of all that come.
        """
        start, quarter = self._notes[0][0], self.elapsed / 4
        times = start + quarter * np.array([1, 2, 3, 4])
        ended = np.array(self._finished)
        series = ended[:, :-1] @ tokens_of, self._columns[2], ended[:, -1], self._columns[1]
        expected, rows, *made = (np.diff(np.interp(times, self._columns[0], x)) for x in series)
        (then, middle, now), (rows_then, _, rows_now) = expected, rows
        fewest = max(_GENERATIONS * self._running, 1.0)
        if min(then, now) <= 0 or min(rows_then, rows_now) < fewest:
            return Drift()
        error = spread * math.hypot(rows_then**-0.5, rows_now**-0.5)
        error = math.hypot(error, _WAVES * running / now)
        # At first short rows end; later many long ones do at once, of which the tokens were made
        # before. By tokens of rows that ended, lengths seem to grow then, by tokens made to fall.
        drifts = []
        for of_then, _, of_now in made:
            before, lately = max(of_then / then, 1e-9), max(of_now / now, 1e-9)
            change = (lately - before) / ((then + now) / 2 + middle) * (now + to_come) / 2
            drifts.append(drift(lately + change, math.log(lately / before), error))
        return nearest(*drifts)

    def _at(self, moment: float) -> Floats:
        return np.array([np.interp(moment, self._columns[0], each) for each in self._columns])
