"""gpt-oss's format (harmony): an answer is messages, each for a channel.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

`analysis` is thinking, `final` the answer, `commentary` to a function a call of it; commentary to
nobody is a preamble, shown to the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from batchgen.job.answers.marks import Marks
from batchgen.job.answers.thinking import Begin, Split, ThinkingFormat

__all__ = ["HARMONY", "Message", "messages_of"]

_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_TAGS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", *_ENDS)
_CHANNEL = re.compile(r"\s*([a-z]*)")
_RECIPIENT = re.compile(r"\bto=([^\s<\ufdd0]+)")
_ADDRESSED = re.compile(r"\s*to=[^\s<\ufdd0]+\s*")
_ANALYSIS, _FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of an answer, as marked text; `header` with all its tags."""

    header: str
    channel: str
    recipient: str | None
    text: str


class _Harmony(ThinkingFormat):
    """Split by channel, not by one pair of tags."""

    __slots__ = ()

    @property
    def tags(self) -> tuple[str, ...]:
        """See `ThinkingFormat.tags`."""
        return _TAGS

    def split(self, marked: str, begin: Begin, marks: Marks) -> Split:
        """See `ThinkingFormat.split`. Calls stay in the answer, with their headers, for whoever
        reads calls."""
        thought: list[str] = []
        answer: list[str] = []
        for message in messages_of(marked, marks, inside=begin is Begin.INSIDE):
            if message.recipient is not None:
                answer.append(message.header + message.text)
            elif message.channel == "analysis":
                thought.append(message.text)
            else:
                answer.append(message.text)
        return Split("\n".join(thought) if thought else None, "".join(answer))


def messages_of(marked: str, marks: Marks, *, inside: bool = False) -> Iterator[Message]:
    """The messages in order. Text before the first header is the channel's that the prompt opened
    (`inside`: its thinking), or the answer; a header that was cut is nothing."""
    headers = list(_header(marks).finditer(marked))
    before = _body(marked[: headers[0].start() if headers else len(marked)], marks)
    # The prompt ends with the role of the first one, whose header may begin with whom it is to.
    to = before if headers and not inside and _ADDRESSED.fullmatch(before) else ""
    if before and not to:
        yield Message("", "analysis" if inside else "final", None, before)
    for number, header in enumerate(headers):
        end = headers[number + 1].start() if number + 1 < len(headers) else len(marked)
        channel = _CHANNEL.match(header["channel"])
        whole = header[0] if number else to + header[0]
        recipient = _RECIPIENT.search(whole)
        yield Message(
            whole,
            channel[1] if channel else "",
            recipient[1] if recipient else None,
            _body(marked[header.end() : end], marks),
        )


def _header(marks: Marks) -> re.Pattern[str]:
    channel, message, start, constrain = (re.escape(marks.written(tag)) for tag in _TAGS[:4])
    words = "[^<\ufdd0]*"
    return re.compile(
        f"(?:{start}{words})?{channel}(?P<channel>{words})(?:{constrain}{words})?{message}"
    )


def _body(text: str, marks: Marks) -> str:
    """What stands before the token that ends a message, or before a header that was cut."""
    stops = (*_ENDS, "<|start|>", "<|channel|>")
    return re.split("|".join(re.escape(marks.written(tag)) for tag in stops), text)[0]


HARMONY: ThinkingFormat = _Harmony(
    "harmony",
    (_ANALYSIS,),
    (f"<|end|><|start|>assistant{_FINAL}", _FINAL),
    ("<|channel|>",),
)
