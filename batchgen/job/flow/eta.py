"""How long a run still takes, by tokens.

With continuous batching short rows finish first, so the mean length of finished rows is too small,
and after a start no row has finished at all. Lengths are therefore estimated from finished rows and
from the ages of those that still run, as survival times are from deaths and from the living
(Kaplan and Meier, 1958). At the end slots run empty: the last rows take their own time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["BegunRow", "Lengths", "Progress", "SecondsLeft"]

_GROWTH = 1.15
_NUM_BINS = 110
_FEWEST_FINISHED = 5
_SETTLING_S = 2.0
_SHORTEST_WINDOW_S = 20.0
_WINDOW_SHARE = 0.25
"""Of the time so far, over which the rate is taken: longer runs have slower swings."""
_CROWDING_CPU = 0.7
"""A step's time grows with this power of its rows on a CPU; a GPU reads its weights all the same.
"""
_HALF_OVER = math.log(2)
"""So many rows alive are expected when the last one's end is as likely past as to come."""

Floats = npt.NDArray[np.float64]
_EDGES: Floats = np.concatenate([[0.0], _GROWTH ** np.arange(_NUM_BINS)])  # lower edges, in tokens
_WIDTHS: Floats = np.diff(_EDGES)


@dataclass(frozen=True, slots=True)
class BegunRow:
    """A row in the engine: when it began (monotonic seconds), its samples, their `max_tokens`."""

    begun_at: float
    samples: int
    most_tokens: int


@dataclass(slots=True)
class Lengths:
    """Histogram of finished samples' lengths, in bins that grow."""

    counts: list[int] = field(default_factory=lambda: [0] * _NUM_BINS)
    num_samples: int = 0

    def add(self, tokens: int) -> None:
        """One more of this length."""
        self.counts[_bin(tokens)] += 1
        self.num_samples += 1


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known at one moment, of this run alone; `rows_left` are neither finished nor begun.

    `made_tokens`: generated so far, unfinished rows' included.
    """

    now: float
    rows: int
    rows_left: int
    made_tokens: int
    begun: tuple[BegunRow, ...]
    lengths: Lengths


class SecondsLeft:
    """Asked now and then, at least every half minute; each answer is noted for the next ones."""

    def __init__(self, now: float, *, on_cpu: bool = True) -> None:
        self._began = now
        self._crowding = _CROWDING_CPU if on_cpu else 0.0
        self._seen: list[tuple[float, int, int]] = []

    def estimate(self, seen: Progress) -> float | None:
        """Seconds until the last row is done; None while too little is known."""
        running = sum(row.samples for row in seen.begun)
        if not self._seen and not seen.made_tokens:
            self._began = seen.now  # of what came before, loading and compiling, nothing is learnt
            return None
        self._note(seen, running)
        then, tokens, _ = self._seen[0]
        elapsed = seen.now - then
        rate = (seen.made_tokens - tokens) / elapsed if elapsed > 0 else 0.0
        known = seen.lengths.num_samples
        few = known < _FEWEST_FINISHED and seen.rows_left
        if rate <= 0 or few or not known or seen.now - self._began < _SETTLING_S:
            return None
        slots = max(float(np.mean([number for _, _, number in self._seen])), 1.0)
        return _seconds_left(seen, rate, rate / slots, self._crowding)

    def _note(self, seen: Progress, running: int) -> None:
        self._seen.append((seen.now, seen.made_tokens, running))
        window = max(_SHORTEST_WINDOW_S, _WINDOW_SHARE * (seen.now - self._began))
        while len(self._seen) > 2 and seen.now - self._seen[1][0] > window:
            self._seen.pop(0)


def _seconds_left(seen: Progress, rate: float, pace: float, crowding: float) -> float:
    """`rate`: tokens a second of all slots, `pace`: of one."""
    ages, most = _of_samples(seen.begun, seen.now, pace)
    survival = _survival(seen.lengths, ages, most)
    samples_left = seen.rows_left * seen.lengths.num_samples / max(seen.rows, 1)
    slots = max(rate / pace, 1.0)
    if samples_left < 0.5:
        return _draining(_alive_by_token(survival, ages, most), slots, crowding) / pace
    areas = _areas(survival)
    mean = float(areas.sum())
    residuals = _mean_residuals(survival, ages)
    # When the last row is admitted the others are anywhere in their lives: P(residual > edge).
    tail = np.cumsum(areas[::-1])[::-1] / max(mean, 1e-9)
    alive = min(slots, samples_left + len(ages)) * tail
    work = samples_left * mean + float(residuals.sum()) - float(_areas(alive).sum())
    one_more = (float(residuals.min(initial=mean)) + mean) / pace
    return max(max(work, 0.0) / rate + _draining(alive, slots, crowding) / pace, one_more)


def _of_samples(begun: Sequence[BegunRow], now: float, pace: float) -> tuple[Floats, Floats]:
    """Age and `max_tokens` of every running sample, in tokens."""
    many = [row.samples for row in begun]
    most = np.repeat(np.array([row.most_tokens for row in begun], dtype=float), many)
    ages = np.repeat(np.array([(now - row.begun_at) * pace for row in begun], dtype=float), many)
    return np.minimum(ages, np.maximum(most - 1, 0)), most


def _draining(alive: Floats, slots: float, crowding: float) -> float:
    """Time, in steps of full slots, in which rows end without new ones, `alive` of them at each
    bin's beginning: a step of fewer rows is shorter by their share to the power of `crowding`."""
    there = alive >= _HALF_OVER
    share = np.clip(alive, 1.0, slots) / slots
    return float((_WIDTHS * share**crowding)[there].sum())


def _survival(lengths: Lengths, ages: Floats, most: Floats) -> Floats:
    """P(length > the bin's lower edge), [num_bins]. Beyond the longest known one: as far again as
    the oldest running row has come, but not past `max_tokens`."""
    ended = np.array(lengths.counts, dtype=float)
    alive, _ = np.histogram(ages, bins=_EDGES) if len(ages) else (np.zeros(_NUM_BINS), None)
    at_risk = np.cumsum((ended + alive)[::-1])[::-1] - alive / 2
    passing = 1 - np.divide(ended, at_risk, out=np.zeros_like(ended), where=at_risk > 0)
    survival = np.concatenate([[1.0], np.cumprod(passing)[:-1]])
    known = np.flatnonzero(ended + alive)
    end = _bin(int(_EDGES[known[-1]] * 1.5)) if alive[known[-1]] else int(known[-1])
    if len(most):
        end = min(end, max(_bin(int(most.max())), int(known[-1])))
    survival[end + 1 :] = 0.0
    return np.asarray(survival)


def _areas(heights: Floats) -> Floats:
    """Under a curve of these heights at the bins' lower edges, [num_bins]: straight in between."""
    return np.asarray((heights + np.append(heights[1:], 0.0)) / 2 * _WIDTHS)


def _mean_residuals(survival: Floats, ages: Floats) -> Floats:
    """Tokens still to come of rows of these ages, [num_running]."""
    area = np.cumsum(_areas(survival)[::-1])[::-1]
    place = _places(ages)
    left = area[place] - survival[place] * (ages - _EDGES[place])
    return np.asarray(np.maximum(left, 0.0) / np.maximum(survival[place], 1e-9))


def _alive_by_token(survival: Floats, ages: Floats, most: Floats) -> Floats:
    """How many of the running samples are expected to be alive so many tokens on, [num_bins]."""
    now = np.maximum(survival[_places(ages)], 1e-9)
    then = ages[None, :] + _EDGES[:-1, None]  # [num_bins, num_running]
    return np.asarray(np.where(then < most, survival[_places(then)] / now, 0.0).sum(axis=1))


def _places(tokens: Floats) -> npt.NDArray[np.int64]:
    return np.minimum(np.searchsorted(_EDGES, tokens, side="right") - 1, _NUM_BINS - 1)


def _bin(tokens: int) -> int:
    if tokens < 1:
        return 0
    return min(int(math.log(tokens) / math.log(_GROWTH)) + 1, _NUM_BINS - 1)
