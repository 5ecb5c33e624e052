"""Text to token ids and back: the codecs behind `tokenizer.TextCodec`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from batchgen.engine.request import Shared
from batchgen.errors import ErrorCode, RowError
from batchgen.job.templates.chat_shape import is_result, joined_text
from batchgen.job.templates.chat_template import ChatTemplate, Messages
from batchgen.job.text.token_texts import byte_level_bytes, piece_bytes

__all__ = ["BackendCodec", "ByteCodec", "TransformersCodec"]


def _no_text(error: Exception) -> RowError:
    """What tokenizers raise (as TypeError) and str.encode (as ValueError) for a lone surrogate."""
    message = f"the prompt is no valid Unicode text (a lone surrogate?): {error}"
    return RowError(ErrorCode.INVALID_ROW, message)


class _ChatCodec(Shared):
    """What all codecs share: rendering a chat, and its one BOS."""

    def __getstate__(self) -> dict[str, Any]:
        """For stop strings in another process, which need no template."""
        return self.__dict__ | {"_template": None}

    def __init__(
        self, template: ChatTemplate | None, bos_token_id: int | None, vocab_size: int
    ) -> None:
        self._template = template
        self.bos_token_id = bos_token_id
        self.vocab_size = vocab_size
        self._begins_with_bos = False
        """Whether this tokenizer puts a BOS before plain text."""

    @property
    def template(self) -> ChatTemplate | None:
        """See `TextCodec.template`."""
        return self._template

    def render_text(self, messages: Messages, kwargs: Mapping[str, Any] | None = None) -> str:
        """See `TextCodec.render_text`."""
        if self._template is None:
            raise RowError(
                ErrorCode.TEMPLATE_ERROR,
                "the model has no chat template: give --chat-template, or use prompt",
            )
        return self._template.render(messages, kwargs)

    def render(self, messages: Messages, kwargs: Mapping[str, Any] | None = None) -> list[int]:
        """See `TextCodec.render`."""
        return self.encode_rendered([self.render_text(messages, kwargs)])[0]

    def encode_rendered(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextCodec.encode_rendered`."""
        return [self._one_bos(ids) for ids in self.encode_plain(texts)]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextCodec.encode_plain`."""
        try:
            return [self._encode_rendered(text) for text in texts]
        except (TypeError, UnicodeEncodeError) as error:
            raise _no_text(error) from error

    def token_id(self, text: str) -> int | None:
        """See `TextCodec.token_id`."""
        ids = self.encode_plain([text])[0]
        return ids[0] if len(ids) == 1 else None

    def _encode_rendered(self, text: str) -> list[int]:
        raise NotImplementedError

    def _one_bos(self, ids: list[int]) -> list[int]:
        """Exactly one BOS in front, for a tokenizer that puts one before text; none of its own."""
        bos = self.bos_token_id
        if bos is None:
            return ids
        while ids[:2] == [bos, bos]:
            del ids[0]
        if self._begins_with_bos and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def _raw(self, ids: list[int]) -> list[int]:
        """Raw text that begins with the BOS's own text has it once all the same; an empty prompt
        is the BOS alone, where the model has one."""
        if not ids and self.bos_token_id is not None:
            return [self.bos_token_id]
        return self._one_bos(ids) if self._begins_with_bos else ids


class BackendCodec(_ChatCodec):
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

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `TextCodec.encode_batch`."""
        try:
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=True)
        except TypeError as error:
            raise _no_text(error) from error
        return [self._raw(one.ids) for one in encoded]

    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """See `TextCodec.decode_batch`."""
        decoded: list[str] = self._backend.decode_batch(
            [list(ids) for ids in sequences], skip_special_tokens=skip_special_tokens
        )
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

    def _encode_rendered(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)


class TransformersCodec(_ChatCodec):
    """A tokenizer of transformers without a Rust backend (Python, SentencePiece, Mistral's)."""

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
            raise _no_text(error) from error

    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """See `TextCodec.decode_batch`."""
        spaces = {"clean_up_tokenization_spaces": False}
        decode = partial(self._tokenizer.decode, skip_special_tokens=skip_special_tokens, **spaces)
        return [decode(list(ids)) for ids in sequences]

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
        kept = _without(self._ids(text, special=False), num_tokens, side)
        return str(self._tokenizer.decode(kept)).strip("\ufffd")

    def vocabulary(self) -> str:
        """See `TextCodec.vocabulary`."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None:  # a class that only prepares prompts in a way of its own
            return str(backend.to_str())
        kind = type(self._tokenizer).__name__
        text = f"structured outputs need a tokenizer with a Rust backend; {kind} has none"
        raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)

    def _encode_rendered(self, text: str) -> list[int]:
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


class ByteCodec(_ChatCodec):
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
        return bytes(_without(text.encode(), num_tokens, side)).decode("utf-8", "ignore")

    def vocabulary(self) -> str:
        """See `TextCodec.vocabulary`."""
        return "byte"

    def _encode_rendered(self, text: str) -> list[int]:
        return list(text.encode())


def _without(ids: Sequence[int], number: int, side: str) -> Sequence[int]:
    return ids[number:] if side == "left" else ids[: max(len(ids) - number, 0)]


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
