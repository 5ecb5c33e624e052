"""From logits to tokens. No generator: a draw is a function of (key, position) alone (`draws`).

Order of processors, transformers': bias, penalties, allowed tokens, minimum length, temperature,
top-k, top-p, min-p. The token is where the row's cumulative probability, in vocabulary order,
passes the draw.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from batchgen.engine.kernels.draw import DrawKernel
from batchgen.engine.sampling import filters
from batchgen.engine.sampling.batch import Filter, Processing, SamplingBatch
from batchgen.engine.sampling.row_search import first_above, likeliest, row_max
from batchgen.engine.sampling.uniform import uniform

__all__ = ["SampledTokens", "TopTokens", "log_total", "sample"]

_ROWS_A_THREAD = 16
"""Whose sum is taken at once on a CPU: they stay in its cache, where a whole step's would not."""


class SampledTokens(NamedTuple):
    """On the logits' device; nothing waits for it."""

    tokens: torch.Tensor  # int64 [num_rows]
    usable: torch.Tensor  # bool [num_rows]: False where the logits were NaN or left no choice
    logprobs: torch.Tensor | None  # float32 [num_rows]: of the chosen token, before any processor
    top: TopTokens | None = None


class TopTokens(NamedTuple):
    """The most likely tokens of each row before any processor, descending; of equals the first."""

    ids: torch.Tensor  # int64 [num_rows, most]
    logprobs: torch.Tensor  # float32 [num_rows, most]
    counts: tuple[int, ...]
    """How many of them each row asked for."""

    def to_lists(self) -> list[list[tuple[int, float]]]:
        """(id, logprob) of each row, as many as it asked for."""
        columns = zip(self.ids.tolist(), self.logprobs.tolist(), self.counts, strict=True)
        return [list(zip(ids[:n], values[:n], strict=True)) for ids, values, n in columns]


def sample(logits: torch.Tensor, batch: SamplingBatch) -> SampledTokens:
    """Choose one token for each row of logits [num_rows, vocab_size]; may overwrite them."""
    scores = logits.float()  # filters need the range, and a CPU is slow over bfloat16
    processing = batch.processing
    wanted = batch.logprobs or batch.top_logprobs > 0
    original = scores.clone() if wanted and processing is not None else scores
    if processing is not None:
        _process(scores, processing)
    best, tokens = row_max(scores)  # NaN counts as the largest, so `best` shows it
    if processing is not None and len(processing.drawing):
        tokens[processing.drawing] = _draw(scores, best, processing)
    if not wanted:
        return SampledTokens(tokens, best.isfinite(), None)
    total = log_total(original)
    logprobs = (original.gather(1, tokens[:, None]) - total)[:, 0] if batch.logprobs else None
    return SampledTokens(tokens, best.isfinite(), logprobs, _top(original, total, batch))


def log_total(logits: torch.Tensor) -> torch.Tensor:
    """Log-sum-exp of each row, [num_rows, 1]."""
    if logits.device.type != "cpu":
        return torch.logsumexp(logits, dim=-1, keepdim=True)
    at_once = _ROWS_A_THREAD * torch.get_num_threads()
    return torch.cat([_log_total(rows) for rows in logits.split(at_once)])


def _log_total(logits: torch.Tensor) -> torch.Tensor:
    """Threads would share the sum of a row that is alone, and round it otherwise: it is taken
    twice."""
    rows = logits.expand(2, -1) if len(logits) == 1 else logits
    return torch.logsumexp(rows, dim=-1, keepdim=True)[: len(logits)]


def _process(scores: torch.Tensor, processing: Processing) -> None:
    if processing.bias is not None:
        rows, ids, values = processing.bias
        scores.index_put_((rows, ids), values, accumulate=True)
    if processing.penalties is not None:
        filters.apply_penalties(scores, processing.penalties)
    if processing.allowed is not None:
        filters.keep_allowed(scores, processing.allowed)
    if processing.masked is not None:
        scores[processing.masked] = -math.inf


def _draw(scores: torch.Tensor, best: torch.Tensor, processing: Processing) -> torch.Tensor:
    """Tokens of the drawing rows, int64 [num_drawing]; overwrites `scores`, whose maxima are
    `best` [num_rows]."""
    drawing = processing.drawing
    kernel = DrawKernel.load() if scores.device.type == "cpu" and scores.is_contiguous() else None
    if kernel is None:
        return _draw_by_torch(_rows(scores, drawing), best[drawing, None], processing)
    return kernel(
        scores,
        drawing,
        best[drawing],
        processing.temperature,
        _values(processing.top_k, torch.zeros_like(drawing)),
        _values(processing.top_p, torch.ones_like(processing.temperature)),
        _values(processing.min_p, torch.zeros_like(processing.temperature)),
        uniform(processing.keys, processing.positions),
    )


def _values(chosen: Filter | None, values: torch.Tensor) -> torch.Tensor:
    """A filter's value for every drawing row; those without it have what is in `values`."""
    if chosen is not None:
        values[chosen.rows] = chosen.values.to(values.dtype)
    return values


def _draw_by_torch(
    scores: torch.Tensor, best: torch.Tensor, processing: Processing
) -> torch.Tensor:
    """The same on any device, of the drawing rows alone; `best` [num_drawing, 1]."""
    temperature = processing.temperature[:, None]
    scores /= temperature
    best = best / temperature
    weights = torch.exp_(scores - best)  # probabilities but for a factor
    if (top_k := processing.top_k) is not None:
        floor = filters.top_k_floor(_rows(scores, top_k.rows), top_k.values, int(top_k.largest))
        _drop_below(weights, scores, top_k, floor)
    if (top_p := processing.top_p) is not None:
        rows = _rows(scores, top_p.rows), _rows(weights, top_p.rows), best[top_p.rows]
        _drop_below(weights, scores, top_p, filters.top_p_floor(*rows, top_p.values))
    if (min_p := processing.min_p) is not None:
        _drop_below(weights, scores, min_p, filters.min_p_floor(best[min_p.rows], min_p.values))
    return first_above(weights, uniform(processing.keys, processing.positions))


def _drop_below(
    weights: torch.Tensor, scores: torch.Tensor, chosen: Filter, floor: torch.Tensor
) -> None:
    """Zero the weights of scores below the floor [num_filtered, 1] in the filter's rows."""
    floors = torch.full_like(scores[:, :1], -math.inf).index_copy_(0, chosen.rows, floor)
    kept = torch.ge(scores, floors, out=torch.empty_like(scores))  # 0.0 or 1.0: faster than a mask
    weights *= kept


def _rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """These rows; `values` itself where they are all of them."""
    return values if len(rows) == len(values) else values[rows]


def _top(logits: torch.Tensor, total: torch.Tensor, batch: SamplingBatch) -> TopTokens | None:
    if not batch.top_logprobs:
        return None
    most = min(batch.top_logprobs, logits.shape[1])
    values, ids = likeliest(logits, most)
    return TopTokens(ids, values - total, batch.top_counts)
