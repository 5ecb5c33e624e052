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
from batchgen.job.eta.rest import EARLY, LATE, LIKELY, Case, Course, Rest

__all__ = ["SecondsLeft", "TimeLeft"]

_FEWEST_FINISHED = 5
_SETTLING_S = 2.0
_SHORTEST_WINDOW_S = 20.0
_WINDOW_SHARE = 0.5
"""Of the time so far, over which the rate is taken: longer runs have slower swings."""
_LATEST_S = 5.0
"""Over which the rate of this moment is taken."""
_CROWDING_CPU = 0.7
"""A step's time grows with this power of its rows on a CPU; a GPU reads its weights all the same.
"""
_PROMPT_COST_CPU, _PROMPT_COST_GPU = 0.3, 0.05
"""Of a token of a prompt, in tokens made: the model's weights are read once for all of a prompt."""
_NEAR, _NEAR_S = 1.25, 8.0


class TimeLeft(NamedTuple):
    """Seconds until the last row is done: `likely`, and from `early` to `late`."""

    early: float
    likely: float
    late: float

    @property
    def is_sure(self) -> bool:
        """Whether one number says it."""
        return self.late <= max(self.likely * _NEAR, self.likely + _NEAR_S) and self.early >= min(
            self.likely / _NEAR, self.likely - _NEAR_S
        )


class SecondsLeft:
    """Asked now and then, at least every half minute; each answer is noted for the next ones."""

    def __init__(self, *, on_cpu: bool = True) -> None:
        self._prompt_cost = _PROMPT_COST_CPU if on_cpu else _PROMPT_COST_GPU
        self._crowding = _CROWDING_CPU if on_cpu else 0.0
        self._history = History()

    def estimate(self, seen: Progress) -> TimeLeft | None:
        """None while too little is known. Of what came before the first token, loading and
        compiling, nothing is learnt."""
        if not seen.made_tokens:
            return None
        self._history.note(seen)
        few = seen.lengths.num_samples < _FEWEST_FINISHED
        settled = _SHORTEST_WINDOW_S if few else _SETTLING_S
        if self._history.elapsed < settled or not (seen.running or seen.lengths.num_samples):
            return None  # as where all rows so far failed
        return self._time_left(seen, replace(LATE, reach=1e9) if few else LATE)

    def _time_left(self, seen: Progress, late: Case) -> TimeLeft | None:
        history = self._history
        window = max(_SHORTEST_WINDOW_S, _WINDOW_SHARE * history.elapsed)
        history.learn_prompt_cost(self._prompt_cost)
        latest = history.speed(_LATEST_S)
        usual = history.speed(window) if seen.rows_left else latest
        if min(usual.rate, latest.rate) <= 0:
            return None
        slow = fast = usual
        if seen.rows_left:
            slow, fast = history.slowest_and_fastest([usual, latest])
        rest = Rest.of(seen, history)
        drift, order = rest.drift(history), rest.order
        crowding, doubt = history.crowding(self._crowding, window)
        quick, dull = min(crowding + doubt, 1.0), max(crowding - doubt, 0.0)
        likely = rest.seconds(LIKELY, Course(usual, crowding, order.likely, drift.likely))
        soon = Course(fast, quick, min(1.0, order.far), min(1.0, drift.far))
        long = Course(slow, dull, max(1.0, order.far), max(1.0, drift.far))
        early = min(rest.seconds(EARLY, soon), likely)
        return TimeLeft(early, likely, max(rest.seconds(late, long), likely))
