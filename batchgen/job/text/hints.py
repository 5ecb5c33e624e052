"""What is said once of prompts that may not be what was meant: on stderr, not in a row."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from batchgen.engine.request import SamplingParams
from batchgen.errors import RowError
from batchgen.job.decisions.question_texts import asked_text, labels_of, questions_of
from batchgen.job.decisions.settings import unheeded
from batchgen.job.quoting import shown
from batchgen.job.rows import InputRow
from batchgen.job.templates.chat_shape import ENDINGS
from batchgen.job.templates.chat_template import Chat
from batchgen.job.text.byte_codec import ByteCodec
from batchgen.job.text.text_codec import TextCodec

__all__ = ["Hints"]

_MOST_TOLD = 100
_MOST_SHAPES = 64
"""Of chats that are rendered once more, to see what the template leaves out."""
_log = logging.getLogger(__name__)


class Hints:
    """Remembers what it has said. `default`: what rows have that set nothing, nor do flags."""

    def __init__(self, codec: TextCodec, default: SamplingParams) -> None:
        self._codec = codec
        self._default = default
        self._told_two_bos = self._told_calls = self._told_loose = self._told_answered = False
        self._told_glued = False
        self._told_equal = default.n > 1 and default.greedy  # before the first row
        self._bos_text = _added_bos(codec)
        self._told_unread: set[str] = set()
        self._told_unheeded: set[str] = set()
        self._told_unknown: set[str] = set()
        self._looked_at: SamplingParams | None = None
        """Last: many rows have the same. They decide or generate, so each is looked at one way."""
        self._told_left_out: set[str] = set()
        self._shapes: set[tuple[Any, ...]] = set()

    def unread_settings(self, row: InputRow) -> None:
        """Say once of a name that the chat template does not read it."""
        template = self._codec.template
        if template is None or not row.template_kwargs:
            return
        for name in template.unread(row.template_kwargs):
            if name not in self._told_unread and len(self._told_unread) < _MOST_TOLD:
                self._told_unread.add(name)
                text = "%s: %s changes nothing: the chat template does not read it (said once)"
                _log.warning(text, row.origin, name)

    def answered(self, row: InputRow) -> None:
        """Say once that a chat has its answer already, as those of training data have, and gets
        another one behind it."""
        last = row.messages[-1] if row.messages else {}
        if self._told_answered or last.get("role") != "assistant" or "tool_calls" in last:
            return
        if row.params.max_tokens == 0 or any(name in row.template_kwargs for name in ENDINGS):
            return
        self._told_answered = True
        text = (
            "%s: the chat ends with the assistant's turn, and a new one is begun after it: leave "
            "that turn out if it is the answer, or continue it with continue_final_message (said "
            "once)"
        )
        _log.warning(text, row.origin)

    def left_out(
        self, row: InputRow, render: Callable[[Sequence[Chat]], list[str | RowError]]
    ) -> None:
        """Say once of messages of a role, and of calls, that the chat template does not write them.

        Looked at in chats of each shape (who speaks, calls, has content) with words for contents
        and for names of functions, which may be too short to be found.
        """
        if self._codec.template is None or not row.messages or len(self._shapes) >= _MOST_SHAPES:
            return
        shape = tuple(
            (m.get("role"), "tool_calls" in m, bool(m.get("content"))) for m in row.messages
        )
        if shape in self._shapes:
            return
        self._shapes.add(shape)
        spoken = [_in_words(message, number) for number, message in enumerate(row.messages)]
        (text,) = render([(spoken, row.template_kwargs)])
        for what in () if isinstance(text, RowError) else _missing(spoken, text.lower()):
            if what not in self._told_left_out and len(self._told_left_out) < _MOST_TOLD:
                self._told_left_out.add(what)
                line = "%s: the chat template leaves %s out of the prompt (said once)"
                _log.warning(line, row.origin, what)

    def equal_samples(self, row: InputRow) -> None:
        """Say once of a row that asks for several samples and no temperature that they are one."""
        params = row.params
        if self._told_equal or params.n == 1 or not params.greedy or params.decides:
            return
        self._told_equal = True
        text = "%s: n %d at temperature 0 gives equal samples: give a temperature too (said once)"
        _log.warning(text, row.origin, params.n)

    def unread_calls(self, row: InputRow) -> None:
        """Say once that calls of a row's tools are not known by its chat template."""
        if self._told_calls or not row.template_kwargs.get("tools") or row.forced_tool is not None:
            return
        self._told_calls = True
        text = (
            "%s: it is not known how this chat template's model writes calls of tools: they stay "
            "in the completion, unless --tool-call-parser names how (said once)"
        )
        _log.warning(text, row.origin)

    def loose_calls(self, row: InputRow) -> None:
        """Say once that calls of a tool with `strict` are not held to its schema."""
        if self._told_loose or row.forced_tool is not None:
            return
        if not any(_is_strict(tool) for tool in _list(row.template_kwargs.get("tools"))):
            return
        self._told_loose = True
        text = (
            "%s: strict holds calls to their schema where tool_choice is required or a function; "
            "here the model writes them freely (said once)"
        )
        _log.warning(text, row.origin)

    def unheeded_settings(self, row: InputRow) -> None:
        """Say once of a name that it changes nothing where a label is chosen."""
        if row.params is self._looked_at:
            return
        self._looked_at = row.params
        for name in unheeded(row.params, self._default):
            if name not in self._told_unheeded:
                self._told_unheeded.add(name)
                text = (
                    "%s: %s changes nothing in rows with choices: of their labels the one is taken "
                    "that the model itself finds likeliest (said once)"
                )
                _log.warning(text, row.origin, name)

    def glued_labels(self, row: InputRow) -> None:
        """Say once of labels that they follow a word of a raw prompt with no space between."""
        if self._told_glued or row.prompt is None:
            return
        for question in questions_of(row.params):
            text = asked_text(row.prompt, question)
            labels = labels_of(question, row.params)
            if not _needs_space(text) or not all(label[0].isalnum() for label in labels):
                continue
            self._told_glued = True
            line = (
                "%s: labels follow the prompt as they are, here %s: where the model would write a "
                "space first give them one, --choices %s (said once)"
            )
            spaced = shlex.quote(json.dumps([f" {label}" for label in labels[:3]]))
            _log.warning(line, row.origin, shown(text[-12:] + labels[0]), spaced)
            return

    def unknown_tokens(self, row: InputRow) -> None:
        """Say once of a name that it holds ids which the model has not, as those of another's."""
        if row.params is self._looked_at or isinstance(self._codec, ByteCodec):
            return  # without a model its ids are not known
        self._looked_at, last = row.params, self._codec.vocab_size - 1
        for name, ids in _ids_named(row.params):
            if max(ids, default=0) > last and name not in self._told_unknown:
                self._told_unknown.add(name)
                text = "%s: %s: token %d changes nothing: the model's ids end at %d (said once)"
                _log.warning(text, row.origin, name, max(ids), last)

    def two_bos(self, row: InputRow, text: str) -> None:
        """Say once that a raw prompt's BOS is taken for the one that the tokenizer adds."""
        if self._told_two_bos or not self._bos_text or not text.startswith(self._bos_text):
            return
        self._told_two_bos = True
        message = (
            "%s: the prompt begins with the model's BOS token, which the tokenizer adds: it gets "
            "one, not two (said once)"
        )
        _log.warning(message, row.origin)


def _needs_space(text: str) -> bool:
    """Whether a word that comes after it has a space before it, in most languages written so."""
    return text[-1:].isascii() and (text[-1:].isalnum() or text[-1:] in tuple(".:;,?!)]"))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_strict(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return isinstance(function, Mapping) and bool(function.get("strict"))


def _ids_named(params: SamplingParams) -> Iterator[tuple[str, Iterable[int]]]:
    yield "stop_token_ids", params.stop_token_ids
    yield "allowed_token_ids", params.allowed_token_ids
    yield "logit_bias", [token for token, _ in params.logit_bias]
    yield "bad_words_ids or suppress_tokens", [max(word) for word in params.bad_words]


def _word(number: int) -> str:
    return f"probeword{number}x"


def _in_words(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    said = {**message}
    if message.get("content"):
        said["content"] = _word(number)
    if isinstance(message.get("tool_calls"), list):
        calls = enumerate(message["tool_calls"])
        said["tool_calls"] = [_named(call, f"probecall{number}x{place}x") for place, call in calls]
    return said


def _named(call: Any, name: str) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    return (
        {**call, "function": {**function, "name": name}} if isinstance(function, Mapping) else call
    )


def _missing(spoken: Sequence[Mapping[str, Any]], text: str) -> Iterator[str]:
    """What of a chat whose contents are words does not stand in its prompt, in small letters."""
    for number, message in enumerate(spoken):
        calls = message.get("tool_calls") or ()
        if message.get("content") and _word(number) not in text:
            beside = " beside calls of tools" if calls else ""
            yield f"the content of role {message['role']!r}{beside}"
        if any(not _is_written(call, text) for call in calls if "function" in call):
            yield "calls of tools"


def _is_written(call: Mapping[str, Any], text: str) -> bool:
    """By its name, or by its id alone, which has the name in it (Kimi-K2's)."""
    marks = (call["function"].get("name"), call.get("id"))
    return any(isinstance(mark, str) and len(mark) > 5 and mark.lower() in text for mark in marks)


def _added_bos(codec: TextCodec) -> str:
    """The text of the BOS that this tokenizer puts before raw text; empty where it puts none."""
    bos = codec.bos_token_id
    if bos is None or codec.encode_batch(["a"])[0][:1] != [bos]:
        return ""
    return codec.token_bytes(bos).decode("utf-8", "replace")
