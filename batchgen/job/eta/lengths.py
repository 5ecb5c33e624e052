"""Survival curves of rows: which share of its `max_tokens` a row uses, estimated while most still
run.

With continuous batching short rows finish first, so the mean length of finished rows is too small,
and just after a start no row has finished at all. So rows that still run count as censored
observations, by their ages (the estimator of Kaplan and Meier, 1958). Rows with a large
`max_tokens` begin first, so each class of similar `max_tokens` has a curve of its own; where a
class has few rows, its hazards are drawn towards those of all classes together. Curves are given at
`EDGES`, in shares of `max_tokens`, and linear in between; a row that reaches 1 is cut there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["NUM_CLASSES", "Floats", "Lengths", "classes_of", "curves", "drawn", "mean_and_variance"]

_LOG = math.log(1.1)
"""Bins of shares grow by 10%."""
_NUM_BINS = 150
_CLASS_BINS = 4
"""The `max_tokens` of a class span so many bins."""
NUM_CLASSES = _NUM_BINS // _CLASS_BINS + 1
_FEW, _ENDING = 20.0, 0.2
"""With fewer rows at risk than the first, a prior of rows is added whose hazard is the second."""
_POOLED = 5.0
"""The pooled hazards of all classes count for so many rows at risk in each class."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
EDGES: Floats = np.concatenate([[0.0], np.exp(_LOG * np.arange(1.0 - _NUM_BINS, 1.0))])
"""[num_bins + 1], from 0 to 1."""
WIDTHS: Floats = np.diff(EDGES)


@dataclass(slots=True)
class Lengths:
    """Finished samples by the class of their `max_tokens` and by the share of it that they used, in
    bins that grow; the last one is for those that used all."""

    counts: Ints = field(default_factory=lambda: np.zeros((NUM_CLASSES, _NUM_BINS + 1), np.int64))
    most: Ints = field(default_factory=lambda: np.zeros(NUM_CLASSES, np.int64))
    """`max_tokens` of each class, added up."""
    num_samples: int = 0
    num_tokens: int = 0

    def add(self, tokens: int, most: int) -> None:
        """One more of this length, of at most so many tokens."""
        most = max(most, 1)
        number = min(int(math.log(most) / (_LOG * _CLASS_BINS)), NUM_CLASSES - 1)
        self.counts[number, _bin(tokens / most)] += 1
        self.most[number] += most
        self.num_samples += 1
        self.num_tokens += tokens


def classes_of(most: Floats) -> Ints:
    """The class of each `max_tokens`."""
    numbers = np.log(np.maximum(most, 1.0)) / (_LOG * _CLASS_BINS)
    return np.minimum(numbers.astype(np.int64), NUM_CLASSES - 1)


def curves(
    ended: Floats,
    alive: Floats,
    most: Floats,
    *,
    by_tokens: float,
    reach: float,
    prior: float,
    unseen: float,
) -> Floats:
    """Survival P(share > edge), [num_classes, num_bins + 1].

    `ended`: finished rows by class and bin, [num_classes, num_bins + 1]; `alive`: running ones by
    their age, [num_classes, num_bins]; `most`: about the `max_tokens` of each class.

    Where a class has few rows, other classes stand in, aligned by the share of `max_tokens`, or,
    with the weight `by_tokens`, by the number of tokens. Where few rows are known at all, up to
    `prior` more are assumed, of which one in five ends in each bin. Beyond the longest row nothing
    is known: curves end at its length, or, while it runs, at `reach` times its age. `unseen` more
    rows are assumed to run on that far.
    """
    how = {"reach": reach, "prior": prior, "unseen": unseen}
    pooled = (1 - by_tokens) * _pooled_hazards(ended, alive, np.zeros(len(most), np.int64), **how)
    if by_tokens:
        places = np.round(np.log(np.maximum(most, 1.0)) / _LOG).astype(np.int64)
        pooled = pooled + by_tokens * _pooled_hazards(ended, alive, places, **how)
    survival = 1 - (ended[:, :-1] + _POOLED * pooled) / (_at_risk(ended, alive) + _POOLED)
    whole = np.ones((len(most), 1))
    return np.hstack([whole, np.cumprod(np.clip(survival, 0.0, 1.0), axis=1)])


def mean_and_variance(curve: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of the share that a row uses, each [num_classes]."""
    areas = (curve[:, :-1] + curve[:, 1:]) / 2 * WIDTHS
    mean = np.maximum(areas.sum(axis=1), 1e-9)
    squares = areas @ (EDGES[:-1] + EDGES[1:])
    return mean, np.maximum(squares - mean**2, 0.0)


def drawn(curve: Floats, classes: Ints, shares: Floats, draws: Floats) -> Floats:
    """The shares at which samples end, drawn from their classes' curves, [plays, num_samples].

    `classes`, `shares`: of each sample, its class and the share it has used already, [num_samples];
    `draws`: uniform in (0, 1], [plays, num_samples].
    """
    # Curves end to end, each beginning at twice its number: one look-up serves all.
    first = 2.0 * np.arange(len(curve))[:, None]
    passed = np.hstack([first + 1 - curve, first + 1])
    edges = np.broadcast_to(np.append(EDGES, 1.0), passed.shape)
    at = np.interp(2 * classes + shares, (first + EDGES).ravel(), curve.ravel())
    return np.asarray(np.interp(2 * classes + 1 - at * draws, passed.ravel(), edges.ravel()))


def _pooled_hazards(
    ended: Floats, alive: Floats, places: Ints, *, reach: float, prior: float, unseen: float
) -> Floats:
    """Hazards of all classes together: of the rows that come to a bin, the part that ends there,
    [num_classes, num_bins]. `places`: by how many bins each class is shifted before they are added.
    """
    all_ended, all_alive = np.zeros((2, int(places.max()) + _NUM_BINS + 1))
    for place, ends, ages in zip(places, ended, alive, strict=True):
        all_ended[place : place + _NUM_BINS] += ends[:-1]
        all_alive[place : place + _NUM_BINS] += ages
        all_alive[place + _NUM_BINS] += ends[-1]
    both = all_ended + all_alive
    at_risk = np.cumsum(both[::-1])[::-1] - all_alive / 2 + unseen
    more = prior * np.maximum(1 - at_risk / _FEW, 0.0)
    at_risk, ending = at_risk + more, all_ended + _ENDING * more
    hazard = np.divide(ending, at_risk, out=np.zeros_like(ending), where=at_risk > 0)
    longest = int(np.flatnonzero(both)[-1])
    open_ended = all_alive[longest] or unseen
    hazard[longest + 1 + int(math.log(reach) / _LOG) if open_ended else longest :] = 1.0
    return np.stack([hazard[place : place + _NUM_BINS] for place in places])


def _at_risk(ended: Floats, alive: Floats) -> Floats:
    """Rows at risk, those that came to each bin, [num_classes, num_bins]; rows that are in it count
    half."""
    both = ended.copy()
    both[:, :-1] += alive
    return np.asarray(np.cumsum(both[:, ::-1], axis=1)[:, :0:-1] - alive / 2)


def _bin(share: float) -> int:
    if share >= 1:
        return _NUM_BINS
    return max(_NUM_BINS + math.floor(math.log(share) / _LOG), 0) if share > 0 else 0
