"""Log-probabilities of tokens that were not sampled: those of a prompt, and of labels."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch

from batchgen.engine.device import sent, to_host
from batchgen.engine.sampling.row_search import likeliest
from batchgen.engine.sampling.sampler import TopTokens, log_total
from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["Scores", "score"]

_Int = npt.NDArray[np.int64]
RowScores = tuple[list[float], list[list[tuple[int, float]]]]
"""Of one row's targets, and the most likely tokens at each of its positions."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One step's, in host memory once the step is over."""

    logprobs: torch.Tensor  # float32 [num_targets]
    top: TopTokens | None  # of every scored position
    counts: tuple[int, ...]
    """Targets of each scored row."""
    positions: tuple[int, ...]
    """Positions of each scored row."""

    def to_lists(self) -> list[RowScores]:
        """One pair a scored row."""
        flat: list[float] = self.logprobs.tolist()
        ends = accumulate(self.counts)
        values = [flat[end - count : end] for end, count in zip(ends, self.counts, strict=True)]
        if self.top is None:
            return [(part, []) for part in values]
        tops, place, found = self.top.to_lists(), 0, []
        for part, length in zip(values, self.positions, strict=True):
            found.append((part, [top for top in tops[place : place + length] if top]))
            place += length
        return found


def score(logits: torch.Tensor, step: ScheduledStep) -> Scores:
    """log_softmax of logits [num_scored, vocab_size], in float32, at the step's targets."""
    rows, ids, counts = _wanted(step)
    where, which = sent(rows, logits.device), sent(ids, logits.device)
    values = logits.float()
    total = log_total(values)
    chosen = values[where, which] - total[where, 0]
    return Scores(to_host(chosen), _top(values, total, step), counts, _lengths(step))


def _wanted(step: ScheduledStep) -> tuple[_Int, _Int, tuple[int, ...]]:
    """Row of the logits and token id of each target, int64 [num_targets], and how many of them each
    scored row has."""
    ids, ends = array("i"), array("i")
    counts: list[int] = []
    moves: list[int] = []  # from places among a row's targets to those among the step's
    for row, begin, end in step.scored:
        targets = step.sequences[row].request.targets
        assert targets is not None
        within = targets.within(begin, end)
        moves.append(len(ids) - within.start)
        ids += targets.token_ids[within]
        ends += targets.ends[begin - targets.first : end - targets.first]
        counts.append(within.stop - within.start)
    moved = np.frombuffer(ends, np.int32) + np.repeat(moves, _lengths(step))
    per_position = np.diff(moved, prepend=0)
    rows = np.repeat(np.arange(len(per_position)), per_position)
    return rows, np.frombuffer(ids, np.int32).astype(np.int64), tuple(counts)


def _lengths(step: ScheduledStep) -> tuple[int, ...]:
    return tuple(end - begin for _, begin, end in step.scored)


def _top(values: torch.Tensor, total: torch.Tensor, step: ScheduledStep) -> TopTokens | None:
    counts: list[int] = []
    for row, begin, end in step.scored:
        targets = step.sequences[row].request.targets
        assert targets is not None
        counts += [min(targets.top, values.shape[1])] * (end - begin)
    most = max(counts)
    if not most:
        return None
    found, ids = likeliest(values, most)
    return TopTokens(to_host(ids), to_host(found - total), tuple(counts))
