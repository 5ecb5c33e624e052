"""Penalties, and the filters top-k, top-p and min-p, with a value for each row.

A filter is a floor: the smallest score that it keeps in a row. Floors follow transformers' meaning,
but of equal scores at the border all are kept, so the result needs no order among them. Each row's
floor depends on that row alone.
"""

from __future__ import annotations

import numpy as np
import torch

from batchgen.engine.sampling.batch import Penalties
from batchgen.engine.sampling.row_search import largest
from batchgen.engine.sampling.rules import AllowedTokens

__all__ = ["apply_penalties", "keep_allowed", "min_p_floor", "top_k_floor", "top_p_floor"]

_NUCLEUS_SIZES = (64, 1024)
"""Candidates tried before the whole vocabulary is sorted; a nucleus rarely holds more."""


def apply_penalties(logits: torch.Tensor, penalties: Penalties) -> None:
    """In place on float32 logits [num_rows, vocab_size]: repetition (Keskar et al., CTRL, 2019),
    then presence and frequency (OpenAI's API)."""
    seen = logits[penalties.rows, penalties.ids]
    seen = torch.where(seen < 0, seen * penalties.repetition, seen / penalties.repetition)
    logits[penalties.rows, penalties.ids] = seen - penalties.subtract


_BYTES = np.arange(256, dtype=np.uint8)[:, None]
_LIMITS = np.where(np.unpackbits(_BYTES, axis=1, bitorder="little"), np.inf, -np.inf)
_LIMITS = _LIMITS.astype(np.float32)  # [256, 8]: of the eight tokens of a byte of a mask


def keep_allowed(logits: torch.Tensor, allowed: AllowedTokens) -> None:
    """In place: what a row may not take becomes -inf."""
    vocab_size = logits.shape[1]
    masks = allowed.masks.view(np.uint8)
    if logits.device.type != "cpu":
        bits = np.unpackbits(masks, axis=1, bitorder="little")[:, :vocab_size]
        rows = torch.tensor(allowed.rows, device=logits.device)
        banned = torch.from_numpy(bits == 0).to(logits.device)
        logits[rows] = logits[rows].masked_fill(banned, -torch.inf)
        return
    # Minima with -inf or inf, row by row in place, are a fifth of the time of a mask over copies.
    limits = np.empty((masks.shape[1], 8), np.float32)
    for row, mask in zip(allowed.rows, masks, strict=True):
        np.take(_LIMITS, mask, axis=0, out=limits, mode="clip")
        values = logits[row].numpy()
        np.fmin(values, limits.reshape(-1)[:vocab_size], out=values)


def top_k_floor(scores: torch.Tensor, top_k: torch.Tensor, most: int) -> torch.Tensor:
    """The k-th largest score, [num_rows, 1]. `most`: the largest of `top_k` [num_rows]."""
    return largest(scores, most).gather(1, top_k[:, None] - 1)


def top_p_floor(
    scores: torch.Tensor, weights: torch.Tensor, best: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """The smallest score of the nucleus, [num_rows, 1]: the fewest most likely tokens whose share
    of all `weights` reaches p, at least one (Holtzman et al., 2019).

    `weights` are exp(scores - best), 0 where an earlier filter dropped the token.
    """
    wanted = top_p[:, None] * weights.sum(dim=-1, keepdim=True, dtype=torch.float64)
    vocab_size = scores.shape[1]
    on_host = scores.device.type == "cpu"  # elsewhere, asking whether all were found would wait
    sizes = [n for n in _NUCLEUS_SIZES if n < vocab_size] if on_host else []
    floor, found = _nucleus(scores, best, wanted, sizes[0] if sizes else vocab_size)
    for size in [*sizes[1:], vocab_size]:
        if not on_host or bool(found.all()):
            break
        wide = ~found
        floor[wide], found[wide] = _nucleus(scores[wide], best[wide], wanted[wide], size)
    return floor


def min_p_floor(best: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """The score of a probability min_p times the largest, [num_rows, 1]; `best` alike."""
    return best + torch.log(min_p)[:, None]


def _nucleus(
    scores: torch.Tensor, best: torch.Tensor, wanted: torch.Tensor, num_candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The nucleus's smallest score [num_rows, 1], and whether the candidates held it [num_rows]."""
    candidates = largest(scores, num_candidates)
    weights = torch.exp(candidates - best).double()
    likelier = weights.cumsum(-1) - weights  # what comes before each candidate
    num_kept = (likelier < wanted).sum(-1, keepdim=True).clamp(min=1)
    found = (num_kept < num_candidates)[:, 0]
    return candidates.gather(1, num_kept - 1), found
