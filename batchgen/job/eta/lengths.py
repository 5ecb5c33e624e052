"""How long rows become, estimated while most of them are still under way.

With continuous batching short rows finish first, so the mean length of finished rows is too small,
and after a start no row has finished at all. Lengths are therefore estimated from finished rows and
from the ages of those that still run, as survival times are from deaths and from the living
(Kaplan and Meier, 1958). Curves are given at `EDGES`, in tokens, and straight in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Lengths", "drawn", "mean_and_spread", "survival"]

_GROWTH = 1.1
_NUM_BINS = 150
_FEW, _ENDING = 20.0, 0.2

Floats = npt.NDArray[np.float64]
EDGES: Floats = np.concatenate([[0.0], _GROWTH ** np.arange(_NUM_BINS)])  # [num_bins + 1]
WIDTHS: Floats = np.diff(EDGES)


@dataclass(slots=True)
class Lengths:
    """Histograms of finished samples' lengths, in bins that grow; `cut`: of those that only
    `max_tokens` ended."""

    counts: list[int] = field(default_factory=lambda: [0] * _NUM_BINS)
    cut: list[int] = field(default_factory=lambda: [0] * _NUM_BINS)
    num_samples: int = 0

    def add(self, tokens: int, is_cut: bool = False) -> None:
        """One more of this length."""
        self.counts[_bin(tokens)] += 1
        self.cut[_bin(tokens)] += is_cut
        self.num_samples += 1


def survival(
    lengths: Lengths,
    ages: Floats,
    most: float,
    *,
    uncut: bool = False,
    reach: float,
    prior: float,
    unseen: float,
) -> Floats:
    """P(length > edge), [num_bins + 1], of samples of which some ended and some run, [num_running];
    `uncut`: had `max_tokens` ended none.

    Where few are known they end as if up to `prior` more had been seen, one in five of which ends
    at each edge. Nobody knows what lies beyond the longest one: while it runs, `reach` times its
    age, else its length; `unseen` rows more are taken to go on to `reach` times that. Never past
    `most`.
    """
    ended = np.array(lengths.counts, dtype=float)
    alive = np.histogram(ages, bins=EDGES)[0].astype(float)
    if uncut:
        ended, alive = ended - lengths.cut, alive + lengths.cut
    at_risk = np.cumsum((ended + alive)[::-1])[::-1] - alive / 2 + unseen
    more = prior * np.maximum(1 - at_risk / _FEW, 0.0)
    at_risk, ending = at_risk + more, ended + _ENDING * more
    passing = 1 - np.divide(ending, at_risk, out=np.zeros_like(ended), where=at_risk > 0)
    curve = np.concatenate([[1.0], np.cumprod(passing)])
    known = np.flatnonzero(ended + alive)
    longest = int(known[-1])
    open_ended = alive[longest] or unseen
    end = _bin(EDGES[longest + 1] * reach) if open_ended else longest
    curve[min(end, max(_bin(most), longest)) + 1 :] = 0.0
    return np.asarray(curve)


def mean_and_spread(curve: Floats) -> tuple[float, float]:
    """Mean length, and the standard deviation by it."""
    area = (curve[:-1] + curve[1:]) / 2 * WIDTHS
    mean = max(float(area.sum()), 1e-9)
    squares = 2 * float(area @ ((EDGES[:-1] + EDGES[1:]) / 2))
    return mean, math.sqrt(max(squares - mean * mean, 0.0)) / mean


def drawn(curve: Floats, ages: Floats, draws: Floats) -> Floats:
    """Lengths of samples that have come to these ages; `draws`: uniform in (0, 1]."""
    still = np.interp(ages, EDGES, curve) * draws
    return np.maximum(np.interp(-still, -curve, EDGES), ages + 1)


def _bin(tokens: float) -> int:
    if tokens < 1:
        return 0
    return min(int(math.log(tokens) / math.log(_GROWTH)) + 1, _NUM_BINS - 1)
