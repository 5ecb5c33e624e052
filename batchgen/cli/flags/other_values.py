"""What newcomers write for a flag's values, from habit: vLLM's and PyTorch's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

__all__ = ["DTYPE", "KV_CACHE_DTYPE", "QUANTIZATION"]


class _Words(click.Choice):  # type: ignore[type-arg]  # of later releases of click
    """A choice that takes other words for its own, and says what to do where a word is none."""

    def __init__(self, own: Sequence[str], same: Mapping[str, str], advice: str = "") -> None:
        super().__init__(own)
        self._same = same
        self._advice = advice

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """One of its own words. Raises click.BadParameter."""
        try:
            found: str = super().convert(self._same.get(value, value), param, ctx)
        except click.BadParameter as error:
            raise click.BadParameter(error.message + self._advice, ctx, param) from None
        return found


DTYPE = _Words(
    ["auto", "bfloat16", "float16", "float32"],
    {"half": "float16", "float": "float32", "bf16": "bfloat16", "fp16": "float16",
     "fp32": "float32"},
)  # fmt: skip
QUANTIZATION = _Words(
    ["int8", "q4", "fp8", "gguf", "none"],
    {},
    " A model that is quantised says how in its own files: leave the flag out.",
)
KV_CACHE_DTYPE = _Words(["auto", "fp8"], {"fp8_e4m3": "fp8"})
