"""Rotary positions as a GGUF file gives them: the angle of each pair of values, per position.

The formulas are ggml's (`rope_yarn`, `ggml_rope_yarn_corr_dims` in ggml/src/ggml-cpu/ops.cpp) and
llama.cpp's way from metadata to them (src/llama-context.cpp).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from batchgen.gguf.reading import Reading

__all__ = ["Rope", "read_rope"]

_SCALINGS = (None, "none", "linear", "yarn", "longrope")


@dataclass(frozen=True, slots=True)
class Rope:
    """`dims`: values of a head that are turned. `factor`: by which positions are divided.

    `factors`: the tensor that divides each pair's angle, where there is one.
    """

    base: float
    dims: int
    factor: float = 1.0
    yarn: bool = False
    original_length: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    """What cosine and sine are multiplied with, beside yarn's own."""
    factors: str | None = None
    long_factors: str | None = None
    """Of sequences longer than `original_length`."""

    def scale(self) -> float:
        """What cosine and sine are multiplied with."""
        own = 1.0 + 0.1 * math.log(self.factor) if self.yarn else 1.0
        return own * self.attention_factor

    def frequencies(self, factors: list[float] | None = None) -> list[float]:
        """Radians per position of each pair, [dims / 2]."""
        plain = [self.base ** (-2.0 * pair / self.dims) for pair in range(self.dims // 2)]
        if factors is not None:
            plain = [one / factor for one, factor in zip(plain, factors, strict=True)]
        if not self.yarn:
            return [one / self.factor for one in plain]
        pairs = zip(plain, self._kept_shares(), strict=True)
        return [one / self.factor * (1 - share) + one * share for one, share in pairs]

    def _kept_shares(self) -> list[float]:
        """How much of each pair's own frequency yarn keeps: 1 for fast ones, 0 for slow ones."""
        low = max(0.0, math.floor(self._pair_of(self.beta_fast)))
        high = min(self.dims - 1.0, math.ceil(self._pair_of(self.beta_slow)))
        width = max(0.001, high - low)
        return [1 - min(1.0, max(0.0, (one - low) / width)) for one in range(self.dims // 2)]

    def _pair_of(self, turns: float) -> float:
        """The pair that turns this often within the original length."""
        ratio = self.original_length / (turns * 2 * math.pi)
        return self.dims * math.log(ratio) / (2 * math.log(self.base))


def read_rope(read: Reading, head_dim: int, *, partial: bool = False) -> Rope:
    """The rope of all layers. `partial`: whether fewer values than a head has may be turned."""
    dims = read.count("rope.dimension_count", head_dim) or head_dim
    if dims > head_dim or dims % 2 or (dims != head_dim and not partial):
        raise read.refused("rope.dimension_count", dims)
    kind = read.get("rope.scaling.type")
    if kind not in _SCALINGS:
        raise read.refused("rope.scaling.type", kind)
    factor = read.number("rope.scaling.factor", read.number("rope.scale_linear", 0.0)) or 1.0
    read.only("rope.scaling.yarn_log_multiplier", (0.0,))
    rope = Rope(
        base=read.number("rope.freq_base", 10000.0),
        dims=dims,
        factor=1.0 if kind == "none" else float(factor),
        original_length=_original_length(read),
        attention_factor=read.number("rope.scaling.attn_factor", 1.0) or 1.0,
    )
    return _read_yarn(read, rope) if kind == "yarn" else rope


def _original_length(read: Reading) -> int:
    return read.count("rope.scaling.original_context_length", read.count("context_length"))


def _read_yarn(read: Reading, rope: Rope) -> Rope:
    read.only("rope.scaling.yarn_attn_factor", (1.0,))
    read.only("rope.scaling.yarn_ext_factor", (1.0, -1.0))
    return replace(
        rope,
        yarn=True,
        beta_fast=read.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=read.number("rope.scaling.yarn_beta_slow", 1.0),
    )
