"""Prompts that leave no room: cut to fit (`--overlong`), or to what a row asks for.

What is cut. Of a plain prompt and of token ids: tokens at the left or the right end; a BOS in front
stays. Of a chat: the beginning or the end of the text of its longest message, and of the next when
that is used up; never a system message, an answer that is to be continued, or what the template
writes around the messages, so that the prompt stays a chat. A row's `truncate_prompt_tokens` is
vLLM's: the last k tokens of the rendered prompt, whatever they are; text keeps its BOS. Of a row
that decides, what is cut comes before its questions, and room is left for the longest label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from batchgen.counts import counted
from batchgen.errors import ErrorCode, RowError
from batchgen.job.rows import InputRow
from batchgen.job.text.text_codec import TextCodec

__all__ = ["OverlongPolicy", "PromptCut", "too_long"]

_ROUNDS = 64
_SYSTEM = ("system", "developer")
_Place = tuple[int, int | None]
"""A message, and the part of its content where that is a list."""
_Render = Callable[[list[dict[str, Any]], dict[str, Any]], str]


@dataclass(frozen=True, slots=True)
class OverlongPolicy:
    """`max_model_len`: tokens of prompt and output together; None: nothing is too long here."""

    name: str = "error"
    max_model_len: int | None = None

    @property
    def side(self) -> str | None:
        """`left`, `right`; None: nothing is cut."""
        return self.name.removeprefix("truncate-") if self.name.startswith("truncate-") else None

    def most_tokens(self, max_tokens: int) -> int:
        """Of a prompt that is cut: room for the row's `max_tokens` is left, but at least half of
        the context is the prompt's."""
        assert self.max_model_len is not None
        return max(self.max_model_len - max_tokens, self.max_model_len // 2, 1)


class PromptCut:
    """Cuts one job's prompts. `render` takes messages and the template's settings to text."""

    def __init__(self, policy: OverlongPolicy, codec: TextCodec, render: _Render) -> None:
        self._policy = policy
        self._codec = codec
        self._render = render
        self.num_cut = 0
        """Prompts that were cut so far."""

    def fitted(
        self, row: InputRow, text: str | None, token_ids: list[int]
    ) -> tuple[str | None, list[int]]:
        """The prompt as it is served. RowError PROMPT_TOO_LONG for a chat that cannot be cut."""
        side, last = self._policy.side, row.truncate_prompt_tokens
        if last == -1:
            side = side or "left"
        elif last is not None and last < len(token_ids):
            self.num_cut += 1
            token_ids = self._ends(token_ids, last, "left", keep_bos=text is not None)
        limit = self._policy.max_model_len
        if side is None or limit is None or len(token_ids) < limit:
            return text, token_ids
        self.num_cut += 1
        most = self._policy.most_tokens(row.params.max_tokens)
        if row.messages is not None and last is None:
            return self._cut_chat(row, text, token_ids, most, side)
        return text, self._ends(token_ids, most, side, keep_bos=True)

    def _ends(self, ids: list[int], most: int, side: str, keep_bos: bool) -> list[int]:
        if side == "right":
            return ids[:most]
        bos = self._codec.bos_token_id
        if keep_bos and bos is not None and ids[0] == bos:
            return [bos, *ids[len(ids) - most + 1 :]]
        return ids[-most:]

    def _cut_chat(
        self, row: InputRow, text: str | None, token_ids: list[int], most: int, side: str
    ) -> tuple[str | None, list[int]]:
        messages, places = _places(row)
        for _ in range(_ROUNDS):
            if len(token_ids) <= most:
                return text, token_ids
            if not self._shorten_longest(messages, places, len(token_ids) - most, side):
                break
            text = self._render(messages, row.template_kwargs)
            token_ids = self._codec.encode_rendered([text])[0]
        raise RowError(
            ErrorCode.PROMPT_TOO_LONG,
            f"the chat cannot be cut to {counted(most, 'token')}: it has {len(token_ids):,} without"
            " the texts that may be cut",
        )

    def excess(self, num_tokens: int) -> int:
        """How many tokens of a request that generates nothing have to go; 0: nothing is cut."""
        if self._policy.side is None or self._policy.max_model_len is None:
            return 0
        return max(0, num_tokens + 1 - self._policy.max_model_len)

    def without(self, row: InputRow, num_tokens: int) -> InputRow:
        """The row with about so many tokens less of its own text. RowError PROMPT_TOO_LONG where
        none of it is left to cut."""
        side = self._policy.side or "left"
        is_cut = False
        if row.messages is not None:
            messages, places = _places(row)
            is_cut = self._shorten_longest(messages, places, num_tokens, side)
            row = replace(row, messages=messages)
        elif row.prompt:
            row = replace(row, prompt=self._shorter(row.prompt, num_tokens, side))
            is_cut = bool(row.prompt)
        elif row.prompt_token_ids is not None and len(row.prompt_token_ids) > num_tokens:
            ids = row.prompt_token_ids
            ids = self._ends(ids, len(ids) - num_tokens, side, keep_bos=True)
            is_cut, row = True, replace(row, prompt_token_ids=ids)
        if not is_cut:
            text = "the prompt cannot be cut so far that its questions and labels fit; all share"
            limit = counted(self._policy.max_model_len or 0, "token")
            raise RowError(ErrorCode.PROMPT_TOO_LONG, f"{text} {limit}")
        return row

    def _shorten_longest(
        self, messages: list[dict[str, Any]], places: list[_Place], num_tokens: int, side: str
    ) -> bool:
        """In place; False: no text is left that may be cut."""
        place = max(places, key=lambda one: len(_read(messages, one)), default=None)
        if place is None or not _read(messages, place):
            return False
        _write(messages, place, self._shorter(_read(messages, place), num_tokens, side))
        return True

    def _shorter(self, content: str, num_tokens: int, side: str) -> str:
        cut = self._codec.without_tokens(content, num_tokens, side)
        if len(cut) < len(content):
            return cut
        return content[1:] if side == "left" else content[:-1]


def too_long(num_tokens: int, max_model_len: int) -> RowError:
    """What a prompt without room for one token is told."""
    text = f"the prompt has {counted(num_tokens, 'token')}; prompt and output share"
    return RowError(ErrorCode.PROMPT_TOO_LONG, f"{text} {max_model_len:,}")


def _places(row: InputRow) -> tuple[list[dict[str, Any]], list[_Place]]:
    """A copy of the chat, and the texts in it that may be cut."""
    messages = [dict(message) for message in row.messages or ()]
    continued = bool(row.template_kwargs.get("continue_final_message"))
    last = len(messages) - 1 if continued else len(messages)
    found: list[_Place] = []
    for number, message in enumerate(messages[:last]):
        content = message.get("content")
        if message.get("role") in _SYSTEM:
            continue
        if isinstance(content, str):
            found.append((number, None))
        elif isinstance(content, list):
            message["content"] = [dict(part) for part in content]
            texts = (n for n, part in enumerate(content) if isinstance(part.get("text"), str))
            found += [(number, n) for n in texts]
    return messages, found


def _read(messages: list[dict[str, Any]], place: _Place) -> str:
    number, part = place
    content = messages[number]["content"]
    return str(content if part is None else content[part]["text"])


def _write(messages: list[dict[str, Any]], place: _Place, text: str) -> None:
    number, part = place
    if part is None:
        messages[number]["content"] = text
    else:
        messages[number]["content"][part]["text"] = text
