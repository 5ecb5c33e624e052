"""What is left of a run: samples that run and samples that come, by the class of their
`max_tokens`; those of the last ones that decide when it ends are played through some times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from batchgen.job.eta.history import History, Speed
from batchgen.job.eta.lengths import (
    EDGES,
    NUM_CLASSES,
    Floats,
    Ints,
    classes_of,
    curves,
    drawn,
    mean_and_variance,
)
from batchgen.job.eta.moment import Progress, ReadRows
from batchgen.job.eta.order import Drift

__all__ = ["EARLY", "LATE", "LIKELY", "Case", "Course", "Rest"]

_PLAYS = 16
_AT_A_TIME = 8
"""So many shares of the slots take a row each in one go."""
_PLAYED_ROWS = 2
"""By slot: of what comes before these, only the sum matters."""
_REORDERED = 1024
"""Of so many rows that come those with the largest `max_tokens` begin first."""


@dataclass(frozen=True, slots=True)
class Case:
    """How the rest may turn out: the last rows end so many `deviations` later than in the middle of
    the plays, and the work to come is so many standard `errors` off. For `reach`, `prior` and
    `unseen` see `curves`. `in_order`: the last rows are those with the smallest `max_tokens`.
    """

    deviations: float
    errors: float
    reach: float
    prior: float
    unseen: float = 0.0
    in_order: bool = True


EARLY = Case(deviations=-2.0, errors=-1.3, reach=1.0, prior=6.0)
LIKELY = Case(deviations=0.0, errors=0.0, reach=1.5, prior=2.0)
LATE = Case(deviations=2.0, errors=1.3, reach=2.0, prior=0.0, unseen=1.0, in_order=False)


class Course(NamedTuple):
    """How the run goes on: at that speed, where a step's time grows with the power `crowding` of
    its rows, with `max_tokens` that are not read yet so many times as large as those that are
    (`order`), and rows so many times as long as those of their class were (`drift`)."""

    speed: Speed
    crowding: float
    order: float
    drift: float


@dataclass(frozen=True)
class Rest:
    """Samples that run: their class, age and `max_tokens`, [num_running]. Samples `to_come` of each
    class and their `most` tokens on average, [2, num_classes]: those that wait, and those that
    are not read yet, which are taken to be like all that are."""

    finished: Floats
    """Samples by class and by the share of `max_tokens` that they used."""
    present: Ints
    """The classes' numbers, [num_classes]."""
    classes: Ints
    ages: Floats
    limits: Floats
    to_come: Floats
    most: Floats
    samples_read: float
    order: Drift
    prompt: float
    """What a prompt of those that come costs, in tokens made."""

    @classmethod
    def of(cls, seen: Progress, history: History) -> Rest:
        """What is left at that moment."""
        lengths, read = seen.lengths, seen.read
        begun = np.array(read.begun, dtype=float).reshape(-1, 3)
        samples = np.repeat(begun[:, ::2], begun[:, 1].astype(int), axis=0)
        computed = math.ceil(read.alone * len(samples))
        begun_at, limits = samples[np.arange(computed) * len(samples) // max(computed, 1)].T
        limits = np.maximum(limits, 1.0)
        waiting = np.array(list(read.waiting.items()), dtype=float).reshape(-1, 2)
        running, waits = classes_of(limits), classes_of(waiting[:, 0])
        # By class: of those that wait and of all that were read, how many and their `max_tokens`.
        many = np.bincount(waits, waiting[:, 1], NUM_CLASSES)
        tokens = np.bincount(waits, waiting.prod(axis=1), NUM_CLASSES)
        all_many = many + lengths.counts.sum(axis=1) + np.bincount(running, minlength=NUM_CLASSES)
        all_tokens = tokens + lengths.most + np.bincount(running, limits, NUM_CLASSES)
        present = np.flatnonzero(all_many)
        many, tokens = many[present], tokens[present]
        all_many, all_tokens = all_many[present], all_tokens[present]
        samples_a_row = lengths.num_samples / seen.rows if lengths.num_samples else 1.0
        unread = max(round(seen.rows_left * samples_a_row - many.sum()), 0)
        means = all_tokens / all_many
        unread_rows = unread / samples_a_row
        prompt = _prompt_tokens(read, unread_rows, unread + many.sum())
        return cls(
            finished=lengths.counts[present].astype(float),
            present=present,
            classes=np.searchsorted(present, running),
            ages=np.minimum(history.ages(begun_at), np.maximum(limits - 1, 0)),
            limits=limits,
            to_come=read.alone * np.stack([many, unread * all_many / all_many.sum()]),
            most=np.stack([np.divide(tokens, many, out=means.copy(), where=many > 0), means]),
            samples_read=float(all_many.sum()),
            order=read.order.drift(unread_rows),
            prompt=history.prompt_cost * prompt,
        )

    @cached_property
    def samples_left(self) -> int:
        """That did not begin."""
        return round(float(self.to_come.sum()))

    def drift(self, history: History) -> Drift:
        """Of lengths beside those that were to be expected of their class."""
        curve = self._curves(LIKELY, 0.5)
        mean, variance = mean_and_variance(curve)
        tokens = mean * self.most[1]
        tokens_of = np.zeros(NUM_CLASSES)
        tokens_of[self.present] = tokens
        to_come = float((self.to_come * self.most * mean).sum())
        spread, _ = self._spreads(mean, variance)
        return history.drift(tokens_of, spread, float(tokens[self.classes].sum()), to_come)

    def seconds(self, case: Case, course: Course) -> float:
        """Until the last row has ended."""
        speed, by_tokens = course.speed, self._by_tokens(case)
        curve = self._curves(case, by_tokens)
        mean, variance = mean_and_variance(curve)
        most = self.most * np.array([[1.0], [course.order]])
        scale = course.drift * max(1 + case.errors * self._doubt(mean, variance), 0.1)
        played = min(self.samples_left, round(_PLAYED_ROWS * speed.slots))
        classes, limits = self._last(case, played, most)
        before = float((self.to_come * most * mean).sum() - limits @ mean[classes])
        before = max(before, 0.0) * scale + self.prompt * (self.samples_left - played)
        chance = np.random.default_rng(0)
        shares = drawn(curve, classes, np.zeros(played), 1 - chance.random((_PLAYS, played)))
        to_come = np.maximum(scale * shares * limits, 1.0) + self.prompt
        ends = _ends(self._running(case, by_tokens), to_come, max(round(speed.slots), 1))
        running = np.clip(np.arange(ends.shape[1], 0, -1), 1, speed.slots)
        steps = np.diff(ends, prepend=0.0) @ (running / speed.slots) ** course.crowding
        last = max(float(np.median(steps) + case.deviations * steps.std()), 0.0)
        return before / speed.rate + last / speed.pace

    def _running(self, case: Case, by_tokens: float) -> Floats:
        """Tokens that those that run still make, [plays, num_running]."""
        draws = 1 - np.random.default_rng(1).random((_PLAYS, len(self.ages)))
        curve = self._curves(case, by_tokens, case.prior)
        shares = drawn(curve, self.classes, self.ages / self.limits, draws)
        return np.maximum(np.minimum(shares * self.limits, self.limits) - self.ages, 1.0)

    def _by_tokens(self, case: Case) -> float:
        """What is to be expected of a class of which few rows are known: see `curves`."""
        if not case.errors or len(self.present) == 1:
            return 0.5
        work = self.to_come * self.most
        by_share, by_tokens = (
            float((work * mean_and_variance(self._curves(case, each))[0]).sum()) for each in (0, 1)
        )
        return float((by_tokens > by_share) == (case.errors > 0))

    def _doubt(self, mean: Floats, variance: Floats) -> float:
        """Standard error of the work to come, by that work."""
        unread = float(self.to_come[1].sum())
        finished = max(float(self.finished.sum()), 1.0)
        spread, mix = self._spreads(mean, variance)
        doubt = spread * math.hypot(max(self.samples_left, 1) ** -0.5, finished**-0.5)
        if not unread:
            return doubt
        of_mix = mix * math.hypot(unread**-0.5, self.samples_read**-0.5)
        return math.hypot(doubt, of_mix * unread / max(self.samples_left, 1))

    def _spreads(self, mean: Floats, variance: Floats) -> tuple[float, float]:
        """Standard deviations, by the mean of all, of lengths around the mean of their class, and
        of those means."""
        many = self.to_come.sum(axis=0)
        if not many.any():
            return 0.0, 0.0
        weight, means = many / many.sum(), mean * self.most[1]
        whole = float(weight @ means)
        within = float(weight @ (variance * self.most[1] ** 2))
        return math.sqrt(within) / whole, math.sqrt(float(weight @ (means - whole) ** 2)) / whole

    def _last(self, case: Case, rows: int, most: Floats) -> tuple[Ints, Floats]:
        """Classes and `max_tokens` of the last rows, each [rows], as they begin."""
        order = np.argsort(most.ravel(), kind="stable")
        up_to = np.cumsum(self.to_come.ravel()[order])
        places = np.arange(rows)[::-1] + 0.5
        if case.in_order:
            places /= max(min(_REORDERED, self.samples_left), 1)
        else:
            places = np.random.default_rng(2).permutation(places / max(rows, 1))
        found = order[np.minimum(np.searchsorted(up_to, places * up_to[-1]), len(order) - 1)]
        return found % len(self.present), most.ravel()[found]

    def _curves(self, case: Case, by_tokens: float, prior: float = 0.0) -> Floats:
        """Of those that come; with a `prior` of those that run."""
        return curves(
            self.finished,
            self._alive,
            self.most[1],
            by_tokens=by_tokens if len(self.present) > 1 else 0.0,
            reach=case.reach,
            prior=prior,
            unseen=case.unseen,
        )

    @cached_property
    def _alive(self) -> Floats:
        """Samples that run, by class and by the share of `max_tokens` that they have used."""
        alive = np.zeros((len(self.present), len(EDGES) - 1))
        bins = np.searchsorted(EDGES, self.ages / self.limits, side="right") - 1
        np.add.at(alive, (self.classes, bins), 1.0)
        return alive


def _ends(running: Floats, to_come: Floats, most_slots: int) -> Floats:
    """After how many tokens slots run empty, first to last, [plays, num_slots]: what runs, [plays,
    num_running], and more rows, [plays, num_rows], each in a slot that is free, some at a time."""
    rows = to_come.shape[1]
    free = min(max(most_slots - running.shape[1], 0), rows)
    ends = np.hstack([running, np.zeros((_PLAYS, free or int(not running.shape[1])))])
    width, plays = max(ends.shape[1] // _AT_A_TIME, 1), np.arange(_PLAYS)[:, None]
    for begin in range(0, rows, width):
        more = to_come[:, begin : begin + width]
        first = np.argpartition(ends, width - 1, axis=1)[:, : more.shape[1]]
        ends[plays, first] += more
    return np.sort(ends)


def _prompt_tokens(read: ReadRows, unread_rows: float, samples: float) -> float:
    """Of each of the `samples` to come, the tokens of its prompt that are computed: some are found
    in the cache."""
    prompts = read.prompt_tokens * (1 + unread_rows / max(read.order.rows, 1))
    each = (prompts - read.begun_prompt_tokens) / max(samples, 1.0)
    return each * (read.computed_prompt_tokens / max(read.alone * read.begun_prompt_tokens, 1.0))
