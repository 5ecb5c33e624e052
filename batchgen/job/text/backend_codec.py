"""The codec of a tokenizer in Rust."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.text.text_codec import TextCodec, no_text
from batchgen.job.text.token_texts import byte_level_bytes, piece_bytes

__all__ = ["BackendCodec"]

_FEW_TOKENS = 64
"""So many are decoded in this thread: Rust's own take 20 us to begin, a token takes 0.2. Of more,
the interpreter is let go meanwhile."""


class BackendCodec(TextCodec):
    """A `tokenizers.Tokenizer`: batches run in Rust with the GIL released."""

    def __init__(
        self,
        backend: Any,
        template: ChatTemplate | None,
        bos_token_id: int | None,
        vocab_size: int,
    ) -> None:
        super().__init__(template, bos_token_id, vocab_size)
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._is_byte_level = "ByteLevel" in str(backend.decoder)
        self._added = frozenset(backend.get_added_tokens_decoder())
        starts = backend.encode("", add_special_tokens=True).ids
        self._begins_with_bos = bos_token_id is not None and starts[:1] == [bos_token_id]
        if str(backend.decoder).startswith("ByteLevel(") and self._adds_plain_text():
            self.text_bytes = _TextBytes(self)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextCodec.encode_batch`."""
        return [self._raw(ids) for ids in self._ids(texts, special=True)]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextCodec.encode_plain`."""
        return self._ids(texts, special=False)

    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """See `TextCodec.decode_batch`."""
        skip, lists = skip_special_tokens, [list(ids) for ids in sequences]
        if sum(map(len, lists)) <= _FEW_TOKENS:
            return [self._backend.decode(ids, skip_special_tokens=skip) for ids in lists]
        decoded: list[str] = self._backend.decode_batch(lists, skip_special_tokens=skip)
        return decoded

    def special_token_id(self, text: str) -> int | None:
        """The id of `text` where it is, as a whole, one special token (skipped by decoding)."""
        found: int | None = self._backend.token_to_id(text)
        if found is None or self._backend.decode([found], skip_special_tokens=True):
            return None
        return found

    def token_bytes(self, token_id: int) -> bytes:
        """See `TextCodec.token_bytes`."""
        piece: str | None = self._backend.id_to_token(token_id)
        if piece is None or token_id in self._added:
            return (piece or "").encode()
        return byte_level_bytes(piece) if self._is_byte_level else piece_bytes(piece)

    def without_tokens(self, text: str, num_tokens: int, side: str) -> str:
        """See `TextCodec.without_tokens`."""
        places = self._backend.encode(text, add_special_tokens=False).offsets
        if num_tokens >= len(places):
            return ""
        if side == "left":
            return text[places[num_tokens][0] :]
        return text[: places[len(places) - num_tokens - 1][1]]

    def vocabulary(self) -> str:
        """See `TextCodec.vocabulary`."""
        return str(self._backend.to_str())

    def is_skipped(self, token_id: int) -> bool:
        """Whether it is a special token, which decoding skips."""
        return token_id in self._added and not self._backend.decode([token_id])

    def _adds_plain_text(self) -> bool:
        """Whether no added token's letters are taken for bytes."""
        added = self._backend.get_added_tokens_decoder().items()
        return all(self._backend.decode([t], skip_special_tokens=False) == str(a) for t, a in added)

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        try:
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=special)
        except TypeError as error:
            raise no_text(error) from error
        return [one.ids for one in encoded]


class _TextBytes(dict[int, bytes]):
    """`TextCodec.text_bytes` of a byte-level tokenizer, made as tokens are met."""

    def __init__(self, codec: BackendCodec) -> None:
        super().__init__()
        self._codec = codec

    def __missing__(self, token_id: int) -> bytes:
        codec = self._codec
        found = b"" if codec.is_skipped(token_id) else codec.token_bytes(token_id)
        self[token_id] = found
        return found
