"""A codec whose text keeps special tokens, for rows that ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchgen.engine.request import Shared

__all__ = ["with_special_tokens"]


class _SpecialKept(Shared):
    """A codec in whose text special tokens stand: for stop strings, which then are text too."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec
        self.text_bytes = None

    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = False
    ) -> list[str]:
        """See `TextCodec.decode_batch`."""
        decoded: list[str] = self._codec.decode_batch(sequences, skip_special_tokens)
        return decoded

    def special_token_id(self, text: str) -> int | None:
        """None is left out."""
        return None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._codec, name)


def with_special_tokens(codec: Any) -> Any:
    """The codec for rows that keep special tokens."""
    return _SpecialKept(codec)
