"""The codec without a vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.job.templates.chat_shape import is_result, joined_text
from batchgen.job.templates.chat_template import ChatTemplate, Messages
from batchgen.job.text.text_codec import TextCodec, no_text, without

__all__ = ["ByteCodec"]


class ByteCodec(TextCodec):
    """UTF-8 bytes as token ids, for the echo engine without a model."""

    def __init__(self, template: ChatTemplate | None = None) -> None:
        super().__init__(template, bos_token_id=None, vocab_size=256)

    def render_text(self, messages: Messages, kwargs: Mapping[str, Any] | None = None) -> str:
        """See `TextCodec.render_text`."""
        if self._template is not None:
            return super().render_text(messages, kwargs)
        lines = [f"{message.get('role')}: {_said(message)}\n" for message in messages]
        return "".join([*lines, "assistant: "])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextCodec.encode_batch`."""
        return self.encode_plain(texts)

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextCodec.encode_plain`."""
        try:
            return [list(text.encode()) for text in texts]
        except UnicodeEncodeError as error:
            raise no_text(error) from error

    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """See `TextCodec.decode_batch`."""
        return [_from_bytes(ids) for ids in sequences]

    def special_token_id(self, text: str) -> int | None:
        """Bytes know no special token."""
        return None

    def token_bytes(self, token_id: int) -> bytes:
        """See `TextCodec.token_bytes`."""
        return bytes([token_id]) if 0 <= token_id < 256 else b""

    def without_tokens(self, text: str, num_tokens: int, side: str) -> str:
        """See `TextCodec.without_tokens`."""
        return bytes(without(text.encode(), num_tokens, side)).decode("utf-8", "ignore")

    def vocabulary(self) -> str:
        """See `TextCodec.vocabulary`."""
        return "byte"


def _said(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if is_result(content):
        return json.dumps(content, ensure_ascii=False)
    return joined_text(content) if isinstance(content, list) else str(content or "")


def _from_bytes(ids: Sequence[int]) -> str:
    try:
        return bytes(ids).decode("utf-8", "replace")
    except ValueError:  # an id past 255, from prompt_token_ids: no byte, so no text
        return bytes(one for one in ids if 0 <= one < 256).decode("utf-8", "replace")
