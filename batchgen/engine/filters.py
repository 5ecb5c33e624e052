"""Logits processors with a value for each row, in transformers' order and meaning.

All work row by row: a row's result does not depend on which others are in the batch. Of equal
logits at the border of top-k or top-p all are kept, so the result needs no order among them.
"""

from __future__ import annotations

import math

import torch

from batchgen.engine.sampling_batch import Filter, Penalties

__all__ = ["apply_min_p", "apply_penalties", "apply_top_k", "apply_top_p"]

_NUCLEUS_CANDIDATES = 1024
"""A nucleus rarely holds more tokens; sorting these alone is 8 times cheaper than all."""


def apply_penalties(logits: torch.Tensor, penalties: Penalties) -> None:
    """In place on float32 logits [num_rows, vocab_size]: repetition (Keskar et al., CTRL, 2019),
    then presence and frequency (OpenAI's API)."""
    seen = logits[penalties.rows, penalties.ids]
    seen = torch.where(seen < 0, seen * penalties.repetition, seen / penalties.repetition)
    logits[penalties.rows, penalties.ids] = seen - penalties.subtract


def apply_top_k(scores: torch.Tensor, top_k: Filter) -> None:
    """In place: -inf below the k-th largest score of the row."""
    rows = scores[top_k.rows]  # [num_filtered, vocab_size]
    largest = rows.topk(int(top_k.largest), dim=-1).values
    _cut_below(scores, top_k.rows, rows, largest.gather(1, top_k.values[:, None] - 1))


def apply_top_p(scores: torch.Tensor, top_p: Filter) -> None:
    """In place: keep the fewest most likely tokens whose probabilities reach p (Holtzman et al.,
    2019), at least one."""
    rows = scores[top_p.rows]  # [num_filtered, vocab_size]
    vocab_size = rows.shape[1]
    on_host = rows.device.type == "cpu"  # elsewhere, asking whether some were enough would wait
    num_candidates = min(vocab_size, _NUCLEUS_CANDIDATES) if on_host else vocab_size
    smallest, enough = _smallest_kept(rows, top_p.values, num_candidates)
    if num_candidates < vocab_size and not bool(enough.all()):
        wide = ~enough
        smallest[wide] = _smallest_kept(rows[wide], top_p.values[wide], vocab_size)[0]
    _cut_below(scores, top_p.rows, rows, smallest)


def apply_min_p(scores: torch.Tensor, min_p: Filter) -> None:
    """In place: -inf where the probability is below min_p times the row's largest."""
    rows = scores[min_p.rows]
    smallest = rows.amax(dim=-1, keepdim=True) + torch.log(min_p.values)[:, None]
    _cut_below(scores, min_p.rows, rows, smallest)


def _smallest_kept(
    rows: torch.Tensor, top_p: torch.Tensor, num_candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest score of each row's nucleus [n, 1], and whether the candidates held it [n]."""
    candidates = rows.topk(num_candidates, dim=-1).values
    log_total = torch.logsumexp(rows, dim=-1, keepdim=True)
    probabilities = torch.exp(candidates - log_total).double()
    likelier = probabilities.cumsum(-1) - probabilities  # what comes before each candidate
    num_kept = (likelier < top_p[:, None]).sum(-1, keepdim=True).clamp(min=1)
    return candidates.gather(1, num_kept - 1), (num_kept < num_candidates)[:, 0]


def _cut_below(
    scores: torch.Tensor, indices: torch.Tensor, rows: torch.Tensor, smallest: torch.Tensor
) -> None:
    scores[indices] = rows.masked_fill(rows < smallest, -math.inf)
