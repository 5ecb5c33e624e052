"""Linear layers whose sums have one order, as one operator: by the library, or by our kernel."""

from __future__ import annotations

import torch
from torch.nn import functional

from batchgen.engine.gpu import num_sms
from batchgen.engine.steady.cuda.library import library_rows
from batchgen.engine.steady.cuda.product import multiply, tile_of

__all__ = ["steady_linear"]


@torch.library.custom_op("batchgen::steady_linear", mutates_args=())
def steady_linear(
    x: torch.Tensor,  # [..., num_inputs]
    weight: torch.Tensor,  # [num_outputs, num_inputs]
    bias: torch.Tensor | None = None,
) -> torch.Tensor:  # [..., num_outputs]
    """x weight^T + bias, one operator for compiled layers too: they must not choose a kernel."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    weight = weight.contiguous()
    size = library_rows(rows, weight, bias)
    if size is not None:
        out = functional.linear(_padded(rows, size), weight, bias)[: len(rows)]
    else:
        tile = tile_of(len(rows), len(weight), x.dtype, num_sms(x.device))
        out = multiply(rows, weight, bias, tile)
    return out.view(*x.shape[:-1], len(weight))


@steady_linear.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _padded(rows: torch.Tensor, size: int) -> torch.Tensor:
    """[size, num_inputs]; what stands in the rows beyond is nobody's, and reaches no other row."""
    if len(rows) == size:
        return rows
    padded = rows.new_empty(size, rows.shape[1])
    padded[: len(rows)].copy_(rows)
    return padded
