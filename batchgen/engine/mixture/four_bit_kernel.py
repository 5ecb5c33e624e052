"""Weights of MXFP4, made from their 4 bits in registers, in Triton.

A number has a sign, two bits of exponent and one of mantissa. Put where bfloat16 has these, it is
2^126 times too small, which the scale of a block makes good: no table, no conversion, and two
numbers at a time. `four_bits` says how four of them lie in a word.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["four_runs"]

_LINES = (
    "and.b32 $0, $4, 0x81c081c0;",
    "shl.b32 moved, $4, 3;",
    "and.b32 $1, moved, 0x81c081c0;",
    "shl.b32 moved, $4, 6;",
    "and.b32 $2, moved, 0x81c081c0;",
    "shr.u32 moved, $4, 6;",
    "and.b32 $3, moved, 0x01800180;",
    "shr.u32 moved, $4, 4;",
    "lop3.b32 $3, moved, 0x00400040, $3, 0xea;",
    "shl.b32 moved, $4, 4;",
    "lop3.b32 $3, moved, 0x80008000, $3, 0xea;",
    "mov.b32 none, 0x80008000;",  # -0: adding it leaves a product as it is
    *(f"fma.rn.bf16x2 ${place}, ${place}, ${5 + 2 * place}, none;" for place in range(4)),
)
"""$0 to $3: pairs of the four runs' weights. $4: two words; $5, $7, $9, $11: pairs of scales."""
_ASSEMBLY = tl.constexpr("{ .reg .b32 moved, none;\n" + "\n".join(_LINES) + " }")


@triton.jit  # type: ignore[untyped-decorator]
def four_runs(
    words: tl.tensor, scales: tl.tensor, dtype: tl.constexpr, ASM: tl.constexpr
) -> tl.tuple:
    """Weights of the four runs in the words int16 [outputs, 32]; scales: int32 [outputs]."""
    if ASM:
        return tl.inline_asm_elementwise(
            _ASSEMBLY, "=&r,=&r,=&r,=&r,r,r,r,r,r,r,r,r,r",
            [words, _pairs(scales, words, 0), _pairs(scales, words, 8), _pairs(scales, words, 16),
             _pairs(scales, words, 24)],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2,
        )  # fmt: skip
    else:
        bits = words.to(tl.int32)
        return (
            _numbers(bits >> 15, bits >> 6, scales, dtype),
            _numbers(bits >> 12, bits >> 3, scales >> 8, dtype),
            _numbers(bits >> 9, bits, scales >> 16, dtype),
            _numbers(bits >> 11, (bits >> 12 & 6) | (bits >> 10 & 1), scales >> 24, dtype),
        )


@triton.jit  # type: ignore[untyped-decorator]
def _pairs(scales: tl.tensor, words: tl.tensor, shift: tl.constexpr) -> tl.tensor:
    """One of the four scales as bfloat16, twice in a number, for each word."""
    pair = ((scales >> shift) & 255) * 0x800080
    return tl.broadcast_to(pair[:, None], words.shape)


@triton.jit  # type: ignore[untyped-decorator]
def _numbers(sign: tl.tensor, size: tl.tensor, scales: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """The same in plain operations, for interpreters: of the lowest bits."""
    exponent, half = ((size >> 1) & 3).to(tl.float32), (size & 1).to(tl.float32) * 0.5
    number = tl.where(exponent > 0, (1.0 + half) * tl.exp2(exponent - 1.0), half)
    number = number * (1.0 - 2.0 * (sign & 1).to(tl.float32))
    scale = tl.exp2((scales & 255).to(tl.float32) - 253.0)
    return (number * scale[:, None]).to(dtype)
