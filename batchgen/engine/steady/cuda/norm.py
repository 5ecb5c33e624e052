"""An RMS norm that sums a row in one order: cut by the row's size alone.

PyTorch's reductions, and those that its compiler makes, are cut by the number of rows as well.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["steady_norm"]

_VALUES = 2048
"""Of a program: several rows where they are short, as the heads' of a norm of queries are."""
_VALUES_A_WARP = 512


@triton.jit(do_not_specialize=["num_rows", "inner"])  # type: ignore[untyped-decorator]
def _norm_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    inner: tl.tensor,
    outer_stride: tl.tensor,
    inner_stride: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    ROUND_FIRST: tl.constexpr,
) -> None:
    """Grid: ROWS rows a program. Row i of x begins at i // inner * outer_stride + i % inner *
    inner_stride, of out at i * SIZE."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    places = tl.arange(0, PADDED)
    there = (rows < num_rows)[:, None] & (places < SIZE)[None, :]
    begins = (rows // inner).to(tl.int64) * outer_stride + (rows % inner) * inner_stride
    values = tl.load(x + begins[:, None] + places[None, :], mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(values * values, 1) / SIZE
    scaled = values * (1.0 / tl.sqrt(mean + eps))[:, None]
    if ROUND_FIRST:
        scaled = scaled.to(out.dtype.element_ty).to(tl.float32)
    result = scaled * tl.load(weight + places, mask=places < SIZE, other=0.0)[None, :]
    to = out + rows.to(tl.int64)[:, None] * SIZE + places[None, :]
    tl.store(to, result.to(out.dtype.element_ty), mask=there)


@torch.library.custom_op("batchgen::steady_norm", mutates_args=())
def steady_norm(
    x: torch.Tensor,  # [..., size]
    weight: torch.Tensor,  # float32 [size]
    eps: float,
    round_first: bool,
) -> torch.Tensor:  # [..., size], dense
    """x / sqrt(mean(x^2) + eps) * weight; `round_first`: to x's dtype before the weight."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not x.numel():
        return out
    size = x.shape[-1]
    inner = 1 if x.dim() == 1 or x.is_contiguous() else x.shape[-2]
    rows = x.reshape(-1, inner, size)  # heads are parts of a joined product's rows: no copy
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    padded = triton.next_power_of_2(size)
    at_once = max(1, _VALUES // padded)
    num_rows = len(rows) * inner
    _norm_kernel[(triton.cdiv(num_rows, at_once),)](
        rows,
        weight,
        out,
        num_rows,
        inner,
        rows.stride(0),
        rows.stride(1),
        eps,
        SIZE=size,
        PADDED=padded,
        ROWS=at_once,
        ROUND_FIRST=round_first,
        num_warps=max(1, min(8, at_once * padded // _VALUES_A_WARP)),
    )
    return out


@steady_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float, round_first: bool) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
