"""The proof of a layer of experts: its answers beside those of the module that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from batchgen.causes import first_line
from batchgen.engine.failures import is_out_of_memory

__all__ = ["ERRORS", "FEW", "ROUNDED_ERROR", "Asked", "disproof", "many"]

Answer = Callable[..., torch.Tensor]

ERRORS = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Relative (L2), of a row: the module rounds five times on its way, the kernels twice."""
ROUNDED_ERROR = 4e-2
"""Of layers in float8: what lies between two of its numbers falls to one or the other."""
FEW = (1, 5)
"""Rows: of a decode step."""
_MEANS = (12, 40, 80)
"""Rows of an expert, for each other way that rows are cut."""
_MOST_ROWS = 8192


def many(num_experts: int, num_chosen: int) -> tuple[int, ...]:
    """Numbers of rows that take every path."""
    return *FEW, *(min(_MOST_ROWS, mean * num_experts // num_chosen + 3) for mean in _MEANS)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a layer takes."""

    num_experts: int
    num_chosen: int
    hidden: int
    dtype: torch.dtype
    device: torch.device

    def rows(self, count: int) -> tuple[torch.Tensor, ...]:
        """Rows small and large, so that limits on gates show, experts, and their shares; all of a
        tenth have the same experts."""
        draw = torch.Generator().manual_seed(count)
        x = torch.randn(count, self.hidden, generator=draw)
        x = x * torch.logspace(-1, 1.3, count)[torch.randperm(count, generator=draw), None]
        scores = torch.randn(count, self.num_experts, generator=draw)
        scores[: count // 10] = scores[0]
        shares, chosen = scores.softmax(1).topk(self.num_chosen)
        device, dtype = self.device, self.dtype
        return x.to(device, dtype), chosen.to(device), shares.to(device, dtype)


@torch.no_grad()
def disproof(
    layer: Answer, wanted: Answer, asked: Asked, counts: tuple[int, ...], error: float
) -> str | None:
    """None, or what is wrong with the layer's answers for so many rows."""
    for count in counts:
        given = asked.rows(count)
        expected = wanted(*given).float()
        try:
            ours = layer(*given).float()
        except Exception as error_:
            if is_out_of_memory(error_):
                raise
            # Of Triton or its compiler: something else will serve.
            return f"{type(error_).__name__}: {first_line(error_)}"
        apart = _farthest(ours, expected)
        if not apart <= error:  # NaN must not pass
            return f"a row of {count} differs by {apart:.2g}"
    return None


def _farthest(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest relative error of a row that float16 has room for; NaN where none has."""
    usable = wanted.isfinite().all(dim=1)
    ours, wanted = ours[usable], wanted[usable]
    errors = (ours - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-20)
    return float(errors.max()) if len(errors) else float("nan")
