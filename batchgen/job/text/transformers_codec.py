"""The codec of a tokenizer whose class, of transformers, prepares text in its own way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from batchgen.errors import ErrorCode, RowError
from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.text.text_codec import TextCodec, no_text, without
from batchgen.job.text.token_texts import piece_bytes

__all__ = ["TransformersCodec"]


class TransformersCodec(TextCodec):
    """A tokenizer in Python, SentencePiece, Mistral's, or one with prompts of its own."""

    def __init__(self, tokenizer: Any, template: ChatTemplate | None, vocab_size: int) -> None:
        super().__init__(template, tokenizer.bos_token_id, vocab_size)
        self._tokenizer = tokenizer
        self._unread = self._unread_specials()
        starts = self._ids("", special=True)
        self._begins_with_bos = self.bos_token_id is not None and (
            starts[:1] == [self.bos_token_id]
        )

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextCodec.encode_batch`."""
        try:
            return [self._raw(self._ids(text, special=True)) for text in texts]
        except (TypeError, UnicodeEncodeError) as error:
            raise no_text(error) from error

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextCodec.encode_plain`."""
        try:
            return [self._plain_ids(text) for text in texts]
        except (TypeError, UnicodeEncodeError) as error:
            raise no_text(error) from error

    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """See `TextCodec.decode_batch`."""
        return [
            self._tokenizer.decode(
                list(ids),
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
            for ids in sequences
        ]

    def special_token_id(self, text: str) -> int | None:
        """The id of `text` where it is one special token."""
        if text not in self._tokenizer.all_special_tokens:
            return None
        return int(self._tokenizer.convert_tokens_to_ids(text))

    def token_bytes(self, token_id: int) -> bytes:
        """See `TextCodec.token_bytes`."""
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if isinstance(piece, bytes):  # tiktoken's
            return piece
        return b"" if piece is None else piece_bytes(str(piece))

    def without_tokens(self, text: str, num_tokens: int, side: str) -> str:
        """See `TextCodec.without_tokens`."""
        kept = without(self._ids(text, special=False), num_tokens, side)
        return str(self._tokenizer.decode(kept)).strip("\ufffd")

    def vocabulary(self) -> str:
        """See `TextCodec.vocabulary`."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None:  # a class that only prepares prompts in a way of its own
            return str(backend.to_str())
        kind = type(self._tokenizer).__name__
        text = f"structured outputs need a tokenizer with a Rust backend; {kind} has none"
        raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)

    def _plain_ids(self, text: str) -> list[int]:
        if not self._unread:
            return self._ids(text, special=False)
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(map(re.escape, self._unread))})", text):
            known = self._unread.get(piece)
            ids += self._ids(piece, special=False) if known is None else [known]
        return ids

    def _unread_specials(self) -> dict[str, int]:
        """Special tokens, the longest first, of a tokenizer that takes their texts for letters, as
        mistral-common's does: a template has no other way to write them."""
        texts = sorted(self._tokenizer.all_special_tokens, key=len, reverse=True)
        ids = [int(self._tokenizer.convert_tokens_to_ids(text)) for text in texts]
        if self._ids("".join(texts[:1]), special=False) == ids[:1]:
            return {}
        return dict(zip(texts, ids, strict=True))

    def _ids(self, text: str, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])
