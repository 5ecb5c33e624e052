"""What a KV cache in float8 asks of the Triton kernels: writes that saturate, tiles in float16.

e4m3 with scale 1: 4 exponent bits, 3 of mantissa, up to 448, no infinity. Every such value is exact
in float16 and one instruction converts two, while bfloat16 takes a detour; so both products run in
float16, sums in float32. That loses nothing against bfloat16 operands: weights are at most 1, a
weight below float16's 2^-24 vanishes beside the largest one, and a query of 2^-17 or more keeps all
of bfloat16's bits (what is smaller is off by 2^-25: at most 2^-25 * 448 * head_dim of a score).
Queries saturate at float16's 65504, far above what a model forms whose keys stay within 448.

The second product wants the tokens of a value side by side and the cache has its dimensions so,
which no load can turn in units of one byte. So values are read as pairs, in 16 bits, turned as
such, and the even and odd dimensions summed apart.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

__all__ = ["keys_of", "query_of", "saturated", "value_pointer", "values_of"]

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""There is no assembly then."""
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


@triton.jit  # type: ignore[untyped-decorator]
def keys_of(tile: tl.tensor) -> tl.tensor:
    """A tile of e4m3 in float16, four values at a time: the compiler's own shuffles bytes more."""
    if _INTERPRETED:
        return tile.to(tl.float16)
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .b16 low, high;
            mov.b32 {low, high}, $2;
            cvt.rn.f16x2.e4m3x2 $0, low;
            cvt.rn.f16x2.e4m3x2 $1, high;
            }""",
            "=r,=r,r",
            [tile],
            dtype=tl.float16,
            is_pure=True,
            pack=4,
        )


@triton.jit  # type: ignore[untyped-decorator]
def value_pointer(cache: tl.tensor) -> tl.tensor:
    """The cache of values as pairs of dimensions."""
    return cache.to(tl.pointer_type(tl.int16), bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def values_of(pairs: tl.tensor) -> tl.tensor:
    """The even and the odd dimensions of a tile of pairs, in float16."""
    if _INTERPRETED:
        even = pairs.to(tl.int8).to(tl.float8e4nv, bitcast=True)
        odd = (pairs >> 8).to(tl.int8).to(tl.float8e4nv, bitcast=True)
        return even.to(tl.float16), odd.to(tl.float16)
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 sorted;
            .reg .b16 even, odd;
            prmt.b32 sorted, $2, 0, 0x3120;
            mov.b32 {even, odd}, sorted;
            cvt.rn.f16x2.e4m3x2 $0, even;
            cvt.rn.f16x2.e4m3x2 $1, odd;
            }""",
            "=r,=r,r",
            [pairs],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=2,
        )
