"""What every codec (`tokenizer.TextCodec`) shares: rendering a chat, and its one BOS."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.engine.request import Shared
from batchgen.errors import ErrorCode, RowError
from batchgen.job.templates.chat_template import ChatTemplate, Messages

__all__ = ["ChatCodec", "no_text", "without"]


class ChatCodec(Shared):
    """The base of the codecs, each of which encodes and decodes in its own way."""

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
            raise no_text(error) from error

    def token_id(self, text: str) -> int | None:
        """See `TextCodec.token_id`."""
        ids = self.encode_plain([text])[0]
        return ids[0] if len(ids) == 1 else None

    @abstractmethod
    def _encode_rendered(self, text: str) -> list[int]:
        """Ids of a text that has its special tokens, with none added."""

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


def no_text(error: Exception) -> RowError:
    """What tokenizers raise (as TypeError) and str.encode (as ValueError) for a lone surrogate."""
    message = f"the prompt is no valid Unicode text (a lone surrogate?): {error}"
    return RowError(ErrorCode.INVALID_ROW, message)


def without(ids: Sequence[int], number: int, side: str) -> Sequence[int]:
    """Less so many ids at one side (`left`, `right`)."""
    return ids[number:] if side == "left" else ids[: max(len(ids) - number, 0)]
