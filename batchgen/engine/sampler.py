"""From logits to tokens. No generator: a draw is a function of (key, position) alone (`draws`).

Order of processors, transformers': penalties, minimum length, temperature, top-k, top-p, min-p. The
token is where the row's cumulative probability, in vocabulary order, passes the draw.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from batchgen.engine import filters
from batchgen.engine.device_draws import uniform
from batchgen.engine.sampling_batch import Processing, SamplingBatch

__all__ = ["SampledTokens", "invert_cdf", "sample"]

_CDF_BLOCK = 256


class SampledTokens(NamedTuple):
    """On the logits' device; nothing waits for it."""

    tokens: torch.Tensor  # int64 [num_rows]
    usable: torch.Tensor  # bool [num_rows]: False where the logits were NaN or left no choice
    logprobs: torch.Tensor | None  # float32 [num_rows]: of the chosen token, before any processor


def sample(logits: torch.Tensor, batch: SamplingBatch) -> SampledTokens:
    """Choose one token for each row of logits [num_rows, vocab_size]; may overwrite them."""
    scores = logits.float()  # argmax over bfloat16 is slow on a CPU, and filters need the range
    if batch.processing is None:
        best, tokens = scores.max(dim=-1)
        return SampledTokens(tokens, best.isfinite(), _logprobs(scores, tokens, batch))
    original = scores.clone() if batch.logprobs else scores
    _process(scores, batch.processing)
    best, tokens = scores.max(dim=-1)  # NaN counts as the largest, so `best` shows it
    usable = best.isfinite()
    drawing = batch.processing.drawing
    if len(drawing):
        tokens[drawing] = _draw(scores[drawing], batch.processing)
    return SampledTokens(tokens, usable, _logprobs(original, tokens, batch))


def _process(scores: torch.Tensor, processing: Processing) -> None:
    if processing.penalties is not None:
        filters.apply_penalties(scores, processing.penalties)
    if processing.masked is not None:
        scores[processing.masked] = -math.inf


def _draw(scores: torch.Tensor, processing: Processing) -> torch.Tensor:
    """Tokens of the drawing rows, int64 [num_drawing]; `scores` is overwritten."""
    scores /= processing.temperature[:, None]
    if processing.top_k is not None:
        filters.apply_top_k(scores, processing.top_k)
    if processing.top_p is not None:
        filters.apply_top_p(scores, processing.top_p)
    if processing.min_p is not None:
        filters.apply_min_p(scores, processing.min_p)
    probabilities = torch.softmax(scores, dim=-1)
    return invert_cdf(probabilities, uniform(processing.keys, processing.positions))


def invert_cdf(probabilities: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """First index whose cumulative share of the row exceeds the draw, int64 [num_rows].

    `probabilities` [num_rows, vocab_size] need not sum to one. Sums are float64 in two levels,
    blocks first: a third of the time of one cumulative sum over the vocabulary.
    """
    num_rows, vocab_size = probabilities.shape
    padding = -vocab_size % _CDF_BLOCK
    blocks = torch.nn.functional.pad(probabilities, (0, padding)).view(num_rows, -1, _CDF_BLOCK)
    block_cdf = blocks.sum(dim=-1, dtype=torch.float64).cumsum(-1)  # [num_rows, num_blocks]
    target = draws[:, None] * block_cdf[:, -1:]
    block = _first_above(block_cdf, target)  # [num_rows, 1]
    before = torch.where(block > 0, block_cdf.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block[:, :, None].expand(-1, 1, _CDF_BLOCK))[:, 0]
    offset = _first_above(inside.double().cumsum(-1), target - before)
    return (block * _CDF_BLOCK + offset)[:, 0].clamp(max=vocab_size - 1)


def _first_above(cdf: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Index of the first entry above the target, [num_rows, 1]; where rounding left none, of the
    last entry that adds something. Any valid index for a row of NaN."""
    last = torch.searchsorted(cdf, cdf[:, -1:].contiguous()).clamp(max=cdf.shape[1] - 1)
    return torch.minimum(torch.searchsorted(cdf, target.contiguous(), right=True), last)


def _logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, batch: SamplingBatch
) -> torch.Tensor | None:
    if not batch.logprobs:
        return None
    chosen = logits.gather(1, tokens[:, None])
    return (chosen - torch.logsumexp(logits, dim=-1, keepdim=True))[:, 0]
