"""The rest of a run, played through some times: rows to come, then slots that run empty."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from batchgen.job.eta.history import History, Speed
from batchgen.job.eta.lengths import Floats, drawn, mean_and_spread, survival
from batchgen.job.eta.moment import Progress

__all__ = ["EARLY", "LATE", "LIKELY", "Case", "Rest"]

_PLAYS = 40
_AT_A_TIME = 16
"""So many shares of the slots take a row each in one go."""
_PLAYED_ROWS = 2
"""By slot: of what comes before these, only the sum matters."""


@dataclass(frozen=True, slots=True)
class Case:
    """How the rest may turn out: in `share` of the plays the run has ended by then.

    `errors`: so many standard errors is the mean length off. Beyond the longest row seen a row goes
    on to `reach` times its length, and `unseen` ones do that.
    """

    share: float
    errors: float
    reach: float
    prior: float
    unseen: float = 0.0


EARLY = Case(share=0.0, errors=-1.3, reach=1.0, prior=6.0)
LIKELY = Case(share=0.5, errors=0.0, reach=1.5, prior=2.0)
LATE = Case(share=1.0, errors=1.3, reach=2.0, prior=0.0, unseen=1.0)


@dataclass(frozen=True, slots=True)
class Rest:
    """What runs, by its age and `max_tokens`, [num_running], and how many samples come."""

    seen: Progress
    ages: Floats
    most: Floats
    samples_left: int
    longest: float
    """Tokens that no row goes beyond."""

    @classmethod
    def of(cls, seen: Progress, history: History, longest: float) -> Rest:
        """What is left at that moment."""
        many = [row.samples for row in seen.begun]
        most = np.repeat(np.array([row.most_tokens for row in seen.begun], dtype=float), many)
        begun_at = np.repeat(np.array([row.begun_at for row in seen.begun], dtype=float), many)
        ages = np.minimum(history.ages(begun_at), np.maximum(most - 1, 0))
        each = seen.lengths.num_samples / seen.rows if seen.rows else 1.0
        return cls(seen, ages, most, round(seen.rows_left * each), longest)

    def spread(self) -> float:
        """Standard deviation of lengths by their mean."""
        return mean_and_spread(self._survival(LIKELY))[1]

    def seconds(
        self, case: Case, speed: Speed, crowding: float, a_row_s: float | None = None
    ) -> float:
        """Until the last row has ended, at that speed; a step's time grows with the power
        `crowding` of its rows. `a_row_s`: seconds between two rows to come, where those are known
        to differ from rows so far."""
        curve = self._survival(case)
        mean, spread = mean_and_spread(curve)
        played = min(self.samples_left, round(_PLAYED_ROWS * speed.slots))
        scale = 1.0
        if a_row_s is not None and self.samples_left:
            scale = a_row_s * speed.rate * self.seen.rows_left / (mean * self.samples_left)
        elif self.samples_left:
            known = 1 / self.samples_left + 1 / max(self.seen.lengths.num_samples, 1)
            scale = max(1 + case.errors * spread * math.sqrt(known), 0.1)
        before = (self.samples_left - played) * mean * scale / speed.rate
        ends = self._ends(case, scale, curve, played, max(round(speed.slots), 1))
        running = np.clip(np.arange(ends.shape[1], 0, -1), 1, speed.slots)
        steps = np.diff(ends, prepend=0.0) @ (running / speed.slots) ** crowding
        return before + float(np.quantile(steps, case.share)) / speed.pace

    def _survival(self, case: Case, uncut: bool = False) -> Floats:
        """Of those that run, `uncut`, and of those to come, whose mean is that of all so far."""
        prior = case.prior if uncut else 0.0
        how = {"reach": case.reach, "prior": prior, "unseen": case.unseen}
        return survival(self.seen.lengths, self.ages, self.longest, uncut=uncut, **how)

    def _ends(self, case: Case, scale: float, curve: Floats, rows: int, most_slots: int) -> Floats:
        """After how many tokens slots run empty, first to last, [plays, num_slots]: what runs and
        so many more rows, each in a slot that is free, some at a time."""
        chance = np.random.default_rng(0)
        draws = 1 - chance.random((_PLAYS, len(self.ages) + rows))
        begun, to_come = np.split(draws, [len(self.ages)], axis=1)
        running = drawn(self._survival(case, uncut=True), self.ages, begun)
        lengths = scale * drawn(curve, np.zeros(rows), to_come)
        free = min(max(most_slots - len(self.ages), 0), rows)
        left = np.minimum(running, self.most) - self.ages
        ends = np.hstack([left, np.zeros((_PLAYS, free or int(not len(self.ages))))])
        width = max(ends.shape[1] // _AT_A_TIME, 1)
        for begin in range(0, rows, width):
            more = lengths[:, begin : begin + width]
            first = np.argpartition(ends, width - 1, axis=1)[:, : more.shape[1]]
            np.put_along_axis(ends, first, np.take_along_axis(ends, first, 1) + more, 1)
        return np.sort(ends)
