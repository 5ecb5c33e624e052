"""Log-probabilities of tokens that were not sampled: those of a prompt, and of labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from batchgen.engine.device import to_host
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
        values = [part.tolist() for part in self.logprobs.split(self.counts)]
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
    where = torch.from_numpy(rows).to(logits.device)
    values = logits.float()
    total = log_total(values)
    chosen = values[where, torch.from_numpy(ids).to(logits.device)] - total[where, 0]
    positions = tuple(end - begin for _, begin, end in step.scored)
    return Scores(to_host(chosen), _top(values, total, step), counts, positions)


def _wanted(step: ScheduledStep) -> tuple[_Int, _Int, tuple[int, ...]]:
    """Row of the logits and token id of each target, int64 [num_targets], and how many of them each
    scored row has."""
    ids: list[_Int] = []
    per_position: list[_Int] = []
    for row, begin, end in step.scored:
        targets = step.sequences[row].request.targets
        assert targets is not None
        ids.append(np.array(targets.token_ids[targets.within(begin, end)], dtype=np.int64))
        ends = np.array((0, *targets.ends), dtype=np.int64)
        per_position.append(np.diff(ends[begin - targets.first : end - targets.first + 1]))
    repeats = np.concatenate(per_position)
    rows = np.repeat(np.arange(len(repeats)), repeats)
    return rows, np.concatenate(ids), tuple(map(len, ids))


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
