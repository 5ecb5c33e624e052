"""How experts are chosen by a router's logits, by the definition, in plain operations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

__all__ = ["LOGITS", "SIGMOID", "SOFTMAX", "Choice"]

SOFTMAX, SIGMOID, LOGITS = 0, 1, 2
"""`Choice.function`: what becomes of logits before the choice; of those that are taken as they are,
the chosen ones go through a softmax after it."""
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}


@dataclass(frozen=True, slots=True)
class Choice:
    """The `num_chosen` experts of the largest scores, a correction added; their shares are their
    scores without it."""

    num_chosen: int
    function: int
    normalized: bool = False
    """Shares are divided by the sum of those chosen, and `epsilon`."""
    epsilon: float = 0.0
    factor: float = 1.0
    num_groups: int = 1
    """Experts come only from the `kept_groups` best of so many groups. A group is as good as its
    best expert, or with a sigmoid as the sum of its two best."""
    kept_groups: int = 1
    dtype: torch.dtype = torch.float32
    """Of the shares."""

    @property
    def text(self) -> str:
        """All of it as text, for `read`: as `Gate.text`."""
        numbers = (self.num_chosen, self.function, int(self.normalized), self.epsilon, self.factor)
        return ",".join(map(str, (*numbers, self.num_groups, self.kept_groups, self.dtype)))

    @staticmethod
    @cache
    def read(text: str) -> Choice:
        """From `text`."""
        count, function, normalized, epsilon, factor, groups, kept, dtype = text.split(",")
        numbers = bool(int(normalized)), float(epsilon), float(factor), int(groups), int(kept)
        return Choice(int(count), int(function), *numbers, _DTYPES[dtype])

    def scores(
        self, logits: torch.Tensor, correction: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of what shares are made, and by what experts are chosen: float32
        [num_tokens, num_experts], as `logits`. correction: [num_experts]."""
        scores = logits.float()
        if self.function != LOGITS:
            scores = scores.softmax(1) if self.function == SOFTMAX else scores.sigmoid()
        worth = scores if correction is None else scores + correction.float()
        if self.num_groups == 1:
            return scores, worth
        groups = worth.unflatten(1, (self.num_groups, -1))
        sigmoid = self.function == SIGMOID
        best = groups.topk(2)[0].sum(2) if sigmoid else groups.amax(2)
        out = torch.ones_like(best, dtype=torch.bool)
        out.scatter_(1, best.topk(self.kept_groups)[1], False)
        outside = out[..., None].expand_as(groups).flatten(1)
        if sigmoid:
            return scores, worth.masked_fill(outside, -torch.inf)
        return scores.masked_fill(outside, 0.0), worth.masked_fill(outside, 0.0)

    def apply(
        self, logits: torch.Tensor, correction: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares and experts [num_tokens, num_chosen]."""
        scores, worth = self.scores(logits, correction)
        chosen = worth.topk(self.num_chosen)[1]
        shares = scores.gather(1, chosen)
        if self.function == LOGITS:
            shares = shares.softmax(1)
        elif self.normalized:
            shares = shares / (shares.sum(1, keepdim=True) + self.epsilon)
        return (shares * self.factor).to(self.dtype), chosen
