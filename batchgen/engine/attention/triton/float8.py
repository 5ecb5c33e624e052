"""What a KV cache in float8 asks of the Triton kernels: writes that saturate, products in float16.

e4m3 with scale 1: 4 exponent bits, 3 of mantissa, up to 448, no infinity. Every such value is exact
in float16 and one instruction converts two, while bfloat16 takes a detour; so both products run in
float16, sums in float32. That loses nothing against bfloat16 operands: weights are at most 1, a
weight below float16's 2^-24 vanishes beside the largest one, and a query of 2^-17 or more keeps all
of bfloat16's bits (what is smaller is off by 2^-25: at most 2^-25 * 448 * head_dim of a score).
Queries saturate at float16's 65504, far above what a model forms whose keys stay within 448.

Products in e4m3 itself, with queries and weights in two parts of 4 bits each, were slower on an
H200: few rows would have to pass through `wgmma` (`findings/triton_float8_of_few_rows.sh`), which
waits for each tile's weights in shared memory (256 rows of 550 keys: 107 us, this way 104).
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["query_of", "saturated"]

_LARGEST = tl.constexpr(448.0)
_LARGEST_HALF = tl.constexpr(65504.0)


@triton.jit  # type: ignore[untyped-decorator]
def saturated(data: tl.tensor) -> tl.tensor:
    """Rounded to e4m3, beyond its range the largest value; NaN stays NaN."""
    data = data.to(tl.float32)
    data = tl.clamp(data, -_LARGEST, _LARGEST, propagate_nan=tl.PropagateNan.ALL)
    return data.to(tl.float8e4nv)


@triton.jit  # type: ignore[untyped-decorator]
def query_of(query: tl.tensor) -> tl.tensor:
    """Queries in float16; NaN stays NaN."""
    query = query.to(tl.float32)
    query = tl.clamp(query, -_LARGEST_HALF, _LARGEST_HALF, propagate_nan=tl.PropagateNan.ALL)
    return query.to(tl.float16)
