"""How each sampling row of a step is sampled: what `SamplingTable` gathers, and `sample` does.

Which rows need which processor is known on the host, so the sampler never asks the device. Each
processor is a field of `Processing`, applied in `sampler`. This is the definition; on a GPU the
same is done within the step's graph (`triton`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from batchgen.engine.sampling.rules import AllowedTokens

__all__ = ["Filter", "HostDraws", "Penalties", "Processing", "SamplingBatch"]


@dataclass(frozen=True, slots=True)
class Filter:
    """One parameter of the rows that have it; `rows` count within the drawing rows."""

    rows: torch.Tensor  # int64 [num_filtered]
    values: torch.Tensor  # [num_filtered]
    largest: float
    """The largest value, on the host."""


@dataclass(frozen=True, slots=True)
class Penalties:
    """One entry for each token that a penalised row has seen."""

    rows: torch.Tensor  # int64 [num_entries], among all sampling rows
    ids: torch.Tensor  # int64 [num_entries]
    repetition: torch.Tensor  # float32 [num_entries]: divides positive logits, multiplies others
    subtract: torch.Tensor  # float32 [num_entries]: presence and frequency together


@dataclass(frozen=True, slots=True)
class Processing:
    """What happens to logits before a token is chosen, and which rows draw it at random."""

    bias: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None  # rows, ids, what is added
    penalties: Penalties | None
    allowed: AllowedTokens | None
    masked: tuple[torch.Tensor, torch.Tensor] | None  # rows, ids of logits that become -inf
    drawing: torch.Tensor  # int64 [num_drawing]: the rows that are not greedy
    temperature: torch.Tensor  # float32 [num_drawing]
    keys: torch.Tensor  # int64 [num_drawing]
    positions: torch.Tensor  # int64 [num_drawing]: of the token in its output
    top_k: Filter | None
    top_p: Filter | None
    min_p: Filter | None


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """`processing` None: every row takes its most likely token as it is."""

    processing: Processing | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    """The most alternatives that a row reports."""
    top_counts: tuple[int, ...] = ()
    """How many each row reports; empty: none does."""


class HostDraws(NamedTuple):
    """All that rows need which have a temperature at most: one entry for each sampled row."""

    temperature: npt.NDArray[np.float32]  # 0: the most likely token
    keys: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
