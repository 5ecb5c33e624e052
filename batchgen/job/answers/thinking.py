"""Where thinking begins and ends in a model's answer, by the format that its template writes.

Sources: the chat templates themselves, and the names that vLLM and SGLang give to parsers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from batchgen.job.answers.marks import Marks

__all__ = ["Begin", "Split", "ThinkingFormat", "begin_in_chat", "begin_in_text"]

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class Begin(Enum):
    """Where the first token of an answer stands, as its prompt has it."""

    OPEN = auto()
    """No tag yet: the model may begin to think, or to answer."""
    INSIDE = auto()
    """The prompt has opened the thinking."""
    OFF = auto()
    """The prompt has closed it, or the answer has begun: all that comes is answer."""


@dataclass(frozen=True, slots=True)
class Split:
    """An answer in two, as marked text. `thought` None: there was no thinking."""

    thought: str | None
    answer: str


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """Thinking between two tags. Of several writings of one the first is what is forced."""

    name: str
    starts: tuple[str, ...]
    ends: tuple[str, ...]
    clues: tuple[str, ...] = ()
    """A template that holds one of these has this format; the starts, where there are none."""
    wrappers: tuple[str, ...] = ()
    """Tags around the answer, which are no part of it."""
    parts: tuple[str, ...] = ()
    """Tokens that the others are made of."""
    always: bool = False
    """Thinking comes first, whether or not the prompt shows it."""

    @property
    def tags(self) -> tuple[str, ...]:
        """What may be tokens."""
        return self.starts + self.ends + self.wrappers + self.parts

    @property
    def forced_end(self) -> str:
        """What ends the thinking when its budget is used up."""
        return self.ends[0]

    def is_of(self, template: str) -> bool:
        """Whether a chat template writes this format."""
        return any(clue in template for clue in self.clues or self.starts)

    def split(self, marked: str, begin: Begin, marks: Marks) -> Split:
        """Thinking and answer. Thinking that was cut, or never ended, is all there is.

        Where the prompt shows none, it counts where the answer begins with one of the tags, or
        where a token ends it that nothing began; elsewhere tags are the answer's own text.
        """
        if begin is Begin.OFF:
            return Split(None, marked)
        body = self._after_start(marked, marks)
        if body is None and not self._is_thought(marked, begin, marks):
            return Split(None, self._unwrapped(marked, marks))
        thought = marked if body is None else body
        found = _first(thought, self.ends, marks)
        if found is None:
            return Split(thought, "")
        answer = self._unwrapped(thought[found[1] :], marks)
        return Split(thought[: found[0]], answer.lstrip())

    def _after_start(self, marked: str, marks: Marks) -> str | None:
        text = marked.lstrip()
        for start in self.starts:
            if text.startswith(marks.written(start)):
                return text[len(marks.written(start)) :]
        return None

    def _is_thought(self, marked: str, begin: Begin, marks: Marks) -> bool:
        """Whether an answer without the first tag begins with thinking all the same."""
        ends = [tag for tag in self.ends if marks.token(tag) is not None]
        inside = begin is Begin.INSIDE or self.always
        closed = marked.lstrip().startswith(tuple(map(marks.written, self.ends)))
        return inside or closed or _first(marked, ends, marks) is not None

    def _unwrapped(self, answer: str, marks: Marks) -> str:
        text = answer
        for tag in self.wrappers:
            written = marks.written(tag)
            text = text.strip()
            text = text.removeprefix(written).removesuffix(written).strip()
        return text if text != answer.strip() else answer


def begin_in_text(form: ThinkingFormat, prompt: str, *, raw: bool) -> Begin:
    """What a prompt's text has of the thinking: its end alone, which a chat's template writes; of a
    raw one the last tag, since it may be a chat that goes on in the middle."""
    text = prompt.rstrip()
    if text.endswith(form.starts):
        return Begin.INSIDE
    if text.endswith(form.ends):
        return Begin.OFF
    if raw and _last(text, form.starts) > _last(text, form.ends):
        return Begin.INSIDE
    return Begin.OPEN


def begin_in_chat(
    form: ThinkingFormat,
    prompt: str,
    messages: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any],
) -> Begin:
    """The same of a chat, whose last message may be the beginning of the answer."""
    field = kwargs.get("continue_final_message")
    if not field or not messages:
        return begin_in_text(form, prompt, raw=False)
    if field in REASONING_FIELDS:
        return Begin.INSIDE
    content = messages[-1].get("content")
    text = content if isinstance(content, str) else prompt
    return Begin.INSIDE if _last(text, form.starts) > _last(text, form.ends) else Begin.OFF


def _last(text: str, tags: Sequence[str]) -> int:
    return max((text.rfind(tag) for tag in tags), default=-1)


def _first(marked: str, tags: Sequence[str], marks: Marks) -> tuple[int, int] | None:
    """The first of these tags: its begin and end."""
    found = [
        (at, at + len(written))
        for written in map(marks.written, tags)
        if (at := marked.find(written)) >= 0
    ]
    return min(found) if found else None
