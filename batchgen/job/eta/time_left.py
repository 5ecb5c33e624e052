"""How long a run still takes, by tokens: from when to when its end is to be expected.

Three things are not known: which of the last rows goes on for how long, how fast the engine will be
(it warms up, the machine has other work), and whether rows to come are like those that were (a file
may be sorted). So an answer has an early and a late end; where they are near each other, one number
says it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from batchgen.job.eta.history import History
from batchgen.job.eta.moment import Progress
from batchgen.job.eta.rest import EARLY, LATE, LIKELY, Case, Rest

__all__ = ["SecondsLeft", "TimeLeft"]

_FEWEST_FINISHED = 5
_SETTLING_S = 2.0
_SHORTEST_WINDOW_S = 20.0
_WINDOW_SHARE = 0.25
"""Of the time so far, over which the rate is taken: longer runs have slower swings."""
_LATEST_S = 5.0
"""Over which the rate of this moment is taken."""
_CROWDING_CPU = 0.7
"""A step's time grows with this power of its rows on a CPU; a GPU reads its weights all the same.
"""
_NEAR, _NEAR_S = 1.3, 8.0


class TimeLeft(NamedTuple):
    """Seconds until the last row is done: `likely`, and from `early` to `late`."""

    early: float
    likely: float
    late: float

    @property
    def is_sure(self) -> bool:
        """Whether one number says it."""
        near = max(self.likely * (_NEAR - 1), _NEAR_S)
        return self.late - self.likely <= near and self.likely - self.early <= near


class SecondsLeft:
    """Asked now and then, at least every half minute; each answer is noted for the next ones."""

    def __init__(self, *, on_cpu: bool = True) -> None:
        self._crowding = _CROWDING_CPU if on_cpu else 0.0
        self._history = History()
        self._longest = 1.0

    def estimate(self, seen: Progress) -> TimeLeft | None:
        """None while too little is known. Of what came before the first token, loading and
        compiling, nothing is learnt."""
        if not seen.made_tokens:
            return None
        self._history.note(seen)
        self._longest = max([self._longest, *(float(row.most_tokens) for row in seen.begun)])
        few = seen.lengths.num_samples < _FEWEST_FINISHED
        settled = _SHORTEST_WINDOW_S if few else _SETTLING_S
        if self._history.elapsed < settled or not (seen.begun or seen.rows):
            return None
        return self._time_left(seen, replace(LATE, reach=1e9) if few else LATE)

    def _time_left(self, seen: Progress, late: Case) -> TimeLeft | None:
        history = self._history
        window = max(_SHORTEST_WINDOW_S, _WINDOW_SHARE * history.elapsed)
        latest = history.speed(_LATEST_S)
        usual = history.speed(window) if seen.rows_left else latest
        if min(usual.rate, latest.rate) <= 0:
            return None
        rest = Rest.of(seen, history, self._longest)
        slow, fast = sorted((usual, latest), key=lambda speed: speed.rate)
        trend = history.trend(seen.rows_left, rest.spread()) if seen.rows_left else None
        a_row_s = trend.likely if trend is not None and trend.is_sure else None
        either = (None,) if trend is None else (None, trend.far)
        crowding, doubt = history.crowding(self._crowding, window)
        quick, dull = min(crowding + doubt, 1.0), max(crowding - doubt, 0.0)
        likely = rest.seconds(LIKELY, usual, crowding, a_row_s)
        early = min(rest.seconds(EARLY, fast, quick, each) for each in either)
        latest_end = max(rest.seconds(late, slow, dull, each) for each in either)
        return TimeLeft(min(early, likely), likely, max(latest_end, likely))
