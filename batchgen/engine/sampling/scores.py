"""Log-probabilities of tokens that were not sampled: those of a prompt, and of labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["Scores", "score"]

_Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scores:
    """One step's, on their way to the host."""

    logprobs: torch.Tensor  # float32 [num_targets], host memory once the step is over
    counts: tuple[int, ...]
    """How many of them each scored row has."""

    def to_lists(self) -> list[list[float]]:
        """One list a scored row."""
        return [part.tolist() for part in self.logprobs.split(self.counts)]


def score(logits: torch.Tensor, step: ScheduledStep) -> Scores:
    """log_softmax of logits [num_scored, vocab_size], in float32, at the step's targets."""
    rows, ids, counts = _wanted(step)
    where = torch.from_numpy(rows).to(logits.device)
    values = logits.float()
    total = torch.logsumexp(values, dim=-1)
    chosen = values[where, torch.from_numpy(ids).to(logits.device)] - total[where]
    on_cpu = logits.device.type == "cpu"
    return Scores(chosen if on_cpu else chosen.to("cpu", non_blocking=True), counts)


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
