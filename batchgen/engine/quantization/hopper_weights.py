"""Weights of 4 bits as warp groups multiply them on Hopper: half a step's at once, in registers."""

from __future__ import annotations

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from batchgen.engine.quantization.packing import assembly

__all__ = ["half_step", "steps_of"]

_BFLOAT16_FIRST = gl.constexpr(assembly(torch.bfloat16, (0, 1)))
_BFLOAT16_SECOND = gl.constexpr(assembly(torch.bfloat16, (2, 3)))
_FLOAT16_FIRST = gl.constexpr(assembly(torch.float16, (0, 1)))
_FLOAT16_SECOND = gl.constexpr(assembly(torch.float16, (2, 3)))


@gluon.jit  # type: ignore[untyped-decorator]
def _two_runs(
    words: gl.tensor, steps: gl.tensor, dtype: gl.constexpr, HALF: gl.constexpr
) -> gl.tuple:
    """Weights of the half's two runs in the words [outputs, RUN]; steps: [outputs]."""
    both = [words, steps.expand_dims(1)]
    if dtype == gl.bfloat16:
        return gl.inline_asm_elementwise(
            _BFLOAT16_FIRST if HALF == 0 else _BFLOAT16_SECOND, "=&r,=&r,r,r,r", both,
            dtype=(gl.bfloat16, gl.bfloat16), is_pure=True, pack=2,
        )  # fmt: skip
    else:
        return gl.inline_asm_elementwise(
            _FLOAT16_FIRST if HALF == 0 else _FLOAT16_SECOND, "=&r,=&r,r,r,r", both,
            dtype=(gl.float16, gl.float16), is_pure=True, pack=2,
        )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def half_step(
    words: gl.tensor,
    one: gl.tensor,  # steps of the first run's group
    two: gl.tensor,  # of the second's
    dtype: gl.constexpr,
    HALF: gl.constexpr,
    GROUP: gl.constexpr,
    LEFT: gl.constexpr,
) -> gl.tensor:
    """Weights [outputs, 2 RUN], where the product takes them from."""
    runs = _two_runs(words, one, dtype, HALF)
    first, second = runs[0], runs[1]
    if GROUP % 64 != 0:
        second = _two_runs(words, two, dtype, HALF)[1]
    both = gl.join(first, second).permute((0, 2, 1))
    return gl.convert_layout(both.reshape([words.shape[0], 2 * words.shape[1]]), LEFT)


@gluon.jit  # type: ignore[untyped-decorator]
def steps_of(
    steps_at: gl.tensor, step: gl.tensor, stride: gl.tensor, GROUP: gl.constexpr, RUN: gl.constexpr
) -> gl.tuple:
    """Of the step's four runs."""
    start = step * 4 * RUN
    one = gl.load(steps_at + start // GROUP * stride)
    two, three, four = one, one, one
    if GROUP % (4 * RUN) != 0:
        three = gl.load(steps_at + (start + 2 * RUN) // GROUP * stride)
        four = three
    if GROUP % (2 * RUN) != 0:
        two = gl.load(steps_at + (start + RUN) // GROUP * stride)
        four = gl.load(steps_at + (start + 3 * RUN) // GROUP * stride)
    return one, two, three, four
