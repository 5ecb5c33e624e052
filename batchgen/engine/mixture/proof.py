"""The proof of a layer of experts: its answers beside those of the module that it stands for."""

from __future__ import annotations

from typing import Any

import torch

from batchgen.causes import first_line

__all__ = ["FEW", "disproof", "many"]

_ERROR = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Relative (L2), of a row: the module rounds five times on its way, the kernels twice."""
FEW = (1, 5)
"""Rows: of a decode step."""
_MEANS = (12, 40, 80)
"""Rows of an expert, for each other way that rows are cut."""
_MOST_ROWS = 8192


def many(num_experts: int, num_chosen: int) -> tuple[int, ...]:
    """Numbers of rows that take every path."""
    return *FEW, *(min(_MOST_ROWS, mean * num_experts // num_chosen + 3) for mean in _MEANS)


@torch.no_grad()
def disproof(layer: Any, module: Any, num_chosen: int, counts: tuple[int, ...]) -> str | None:
    """None, or what is wrong with the layer's answers for so many rows."""
    for count in counts:
        given = _rows(layer, num_chosen, count)
        wanted = module(*given).float()
        try:
            ours = layer(*given).float()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of Triton or its compiler: the module itself will serve
            return f"{type(error).__name__}: {first_line(error)}"
        apart = _farthest(ours, wanted)
        if not apart <= _ERROR[given[0].dtype]:  # NaN must not pass
            return f"a row of {count} differs by {apart:.2g}"
    return None


def _farthest(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest relative error of a row that float16 has room for; NaN where none has."""
    usable = wanted.isfinite().all(dim=1)
    ours, wanted = ours[usable], wanted[usable]
    errors = (ours - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-20)
    return float(errors.max()) if len(errors) else float("nan")


def _rows(layer: Any, num_chosen: int, count: int) -> tuple[torch.Tensor, ...]:
    """Rows small and large, so that limits on gates show; all of a tenth have the same experts."""
    weight, draw = layer.down_proj, torch.Generator().manual_seed(count)
    x = torch.randn(count, weight.shape[1], generator=draw)
    x = x * torch.logspace(-1, 1.3, count)[torch.randperm(count, generator=draw), None]
    scores = torch.randn(count, layer.num_experts, generator=draw)
    scores[: count // 10] = scores[0]
    shares, chosen = scores.softmax(1).topk(num_chosen)
    return x.to(weight), chosen.to(weight.device), shares.to(weight)
