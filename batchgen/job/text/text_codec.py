"""Text to token ids and back: what every codec does, and what all share, a chat's one BOS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from batchgen.engine.request import Shared
from batchgen.errors import ErrorCode, RowError
from batchgen.job.templates.chat_template import ChatTemplate, Messages

__all__ = ["TextCodec", "no_text", "without"]


class TextCodec(Shared, ABC):
    """A model's tokenizer and chat template. Safe to call from one thread while another uses it."""

    def __init__(
        self, template: ChatTemplate | None, bos_token_id: int | None, vocab_size: int
    ) -> None:
        self._template = template
        self.bos_token_id = bos_token_id
        self.vocab_size = vocab_size
        """Rows of the model's embedding: ids from 0 to this, exclusive."""
        self._begins_with_bos = False
        """Whether this tokenizer puts a BOS before plain text."""
        self.text_bytes: Mapping[int, bytes] | None = None
        """By token, what decoding joins: the bytes of a text are those of its tokens, one after the
        other; of special tokens none. None: this tokenizer's text is more than that."""

    def __getstate__(self) -> dict[str, Any]:
        """For stop strings in another process, which need no template."""
        return self.__dict__ | {"_template": None}

    @cached_property
    def num_behind(self) -> int:
        """Tokens that it puts behind plain text, such as an EOS."""
        (whole,), (plain,) = self.encode_batch(["a"]), self.encode_plain(["a"])
        ends = (end for end in range(len(whole), 0, -1) if whole[:end][-len(plain) :] == plain)
        return len(whole) - next(ends, len(whole))

    @property
    def template(self) -> ChatTemplate | None:
        """The chat template, which `Requests` renders in a process of its own."""
        return self._template

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Raw prompts, with the special tokens the tokenizer adds to text; empty text is BOS.

        Raises RowError(INVALID_ROW) where one of them is no text (a lone surrogate).
        """

    @abstractmethod
    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Pieces of text as ids, with no special token but those in the text. Raises as
        `encode_batch`."""

    @abstractmethod
    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """Special tokens skipped, unless they are wanted; spaces left as they are."""

    @abstractmethod
    def special_token_id(self, text: str) -> int | None:
        """The id of `text` where it is, whole, a special token, which decoding skips."""

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for, special ones too; empty for an id that is none."""

    @abstractmethod
    def without_tokens(self, text: str, num_tokens: int, side: str) -> str:
        """The text less so many tokens at its `left` or `right` end, whole characters kept."""

    @abstractmethod
    def vocabulary(self) -> str:
        """What a grammar is compiled for: a tokenizer.json, or `byte`. Raises
        RowError(UNSUPPORTED_SETTING) for a tokenizer that has none."""

    def render_text(self, messages: Messages, kwargs: Mapping[str, Any] | None = None) -> str:
        """A chat as the template's text. Raises RowError(TEMPLATE_ERROR)."""
        if self._template is None:
            raise RowError(
                ErrorCode.TEMPLATE_ERROR,
                "the model has no chat template: give --chat-template, or use prompt",
            )
        return self._template.render(messages, kwargs)

    def render(self, messages: Messages, kwargs: Mapping[str, Any] | None = None) -> list[int]:
        """A chat as ids, with exactly one BOS where the tokenizer adds one. Raises RowError."""
        return self.encode_rendered([self.render_text(messages, kwargs)])[0]

    def encode_rendered(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts of `render_text` as ids, with exactly one BOS where the tokenizer adds one."""
        return [self._one_bos(ids) for ids in self.encode_plain(texts)]

    def token_id(self, text: str) -> int | None:
        """The id of `text` where it is, whole, one token, special or not."""
        ids = self.encode_plain([text])[0]
        return ids[0] if len(ids) == 1 else None

    def _one_bos(self, ids: list[int]) -> list[int]:
        """Exactly one BOS in front, for a tokenizer that puts one before text; else what is
        written."""
        bos = self.bos_token_id
        if bos is None or not self._begins_with_bos:
            return ids
        while ids[:2] == [bos, bos]:
            del ids[0]
        return ids if ids[:1] == [bos] else [bos, *ids]

    def _raw(self, ids: list[int]) -> list[int]:
        """Raw text that begins with the BOS's own text has it once all the same; an empty prompt
        is the BOS alone, where the model has one."""
        if not ids and self.bos_token_id is not None:
            return [self.bos_token_id]
        return self._one_bos(ids)


def no_text(error: Exception) -> RowError:
    """What tokenizers raise (as TypeError) and str.encode (as ValueError) for a lone surrogate."""
    message = f"the prompt is no valid Unicode text (a lone surrogate?): {error}"
    return RowError(ErrorCode.INVALID_ROW, message)


def without(ids: Sequence[int], number: int, side: str) -> Sequence[int]:
    """Less so many ids at one side (`left`, `right`)."""
    return ids[number:] if side == "left" else ids[: max(len(ids) - number, 0)]
