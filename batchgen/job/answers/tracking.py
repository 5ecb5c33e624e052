"""Where an answer stands while its tokens come: thinking, answering, or between the two."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from batchgen.job.answers.channels import HARMONY, messages_of
from batchgen.job.answers.marks import RAW, Marks
from batchgen.job.answers.thinking import Begin, ThinkingFormat

__all__ = ["Phase", "Tracker", "num_thinking_tokens", "tracker"]

_CONTEXT_TOKENS = 6
"""Tokens before a tag that a decoder may need, as for stop strings."""
_HEADER_TOKENS = 256
"""Of a message's header in harmony, at most."""


class Phase(Enum):
    """What the next token is part of."""

    OPEN = "open"
    """Of thinking or of an answer: it decides."""
    THINKING = "thinking"
    BETWEEN = "between"
    """Of a header."""
    ANSWER = "answer"


class Tracker(Protocol):
    """Sees an answer's tokens one by one."""

    phase: Phase

    def push(self, token: int) -> None:
        """The answer's next token."""

    @property
    def rest(self) -> str:
        """Once it answers: text of the answer in the token that completed the tag."""


def tracker(form: ThinkingFormat, begin: Begin, marks: Marks) -> Tracker:
    """The tracker of one answer, before its first token."""
    if form.name == HARMONY.name:
        return _Channels(begin, marks)
    return _Tags(form, begin, marks)


def num_thinking_tokens(
    form: ThinkingFormat, begin: Begin, marks: Marks, token_ids: Sequence[int]
) -> int:
    """How many tokens of an answer that has thinking are of it, without those of its tags."""
    watched, count = tracker(form, begin, marks), 0
    for token in token_ids:
        before = watched.phase
        watched.push(token)
        count += before is Phase.THINKING and watched.phase is Phase.THINKING
    if form.name == HARMONY.name:
        return count
    if count and watched.phase is Phase.ANSWER and marks.token(form.ends[0]) is None:
        count -= len(marks.ids(form.ends[0])) - 1  # the tag is text: known by its last token
    if count:
        return max(count, 1)
    ends = {marks.token(tag) for tag in form.ends}  # one ended it that nothing had begun
    return next((place for place, token in enumerate(token_ids) if token in ends), 0)


class _Tags:
    """Thinking between two tags. A tag that is a token is known by its id."""

    def __init__(self, form: ThinkingFormat, begin: Begin, marks: Marks) -> None:
        self._form, self._marks = form, marks
        thinking = begin is Begin.INSIDE or form.always
        self.phase = Phase.THINKING if thinking else Phase.OPEN
        if begin is Begin.OFF:
            self.phase = Phase.ANSWER
        self._ends = {marks.token(tag) for tag in form.ends} - {None}
        in_text = [tag for tag in form.ends if marks.token(tag) is None]
        self._written_ends = [marks.written(tag) for tag in in_text]
        self._window = max((len(tag.encode()) for tag in in_text), default=0) + _CONTEXT_TOKENS
        self._tokens: list[int] = []
        """Of the phase: all while it is open, the last of thinking."""
        self._rest = ""

    @property
    def rest(self) -> str:
        """See `Tracker.rest`."""
        return self._rest

    def push(self, token: int) -> None:
        """See `Tracker.push`."""
        if self.phase is Phase.ANSWER:
            self._rest = ""
            return
        self._tokens.append(token)
        if self.phase is Phase.OPEN:
            self._decide()
        elif token in self._ends:
            self._answer("")
        elif self._written_ends:
            del self._tokens[: -self._window]
            self._look_for_end(self._text())

    def _decide(self) -> None:
        text = self._text().lstrip()
        if self._tokens[-1] in self._ends:
            return self._answer("")
        for start in map(self._marks.written, self._form.starts):
            if text.startswith(start):
                self.phase, self._tokens = Phase.THINKING, []
                return None
        starts = map(self._marks.written, self._form.starts)
        if not any(start.startswith(text.rstrip("\N{REPLACEMENT CHARACTER}")) for start in starts):
            self._answer("")
        return None

    def _look_for_end(self, text: str) -> None:
        found = [(at, end) for end in self._written_ends if (at := text.find(end)) >= 0]
        if found:
            at, end = min(found)
            self._answer(self._marks.plain(text[at + len(end) :], RAW))

    def _answer(self, rest: str) -> None:
        self.phase, self._rest, self._tokens = Phase.ANSWER, rest, []

    def _text(self) -> str:
        return self._marks.marked(self._tokens, RAW)


class _Channels:
    """Harmony: a message's header says what it is."""

    rest = ""

    def __init__(self, begin: Begin, marks: Marks) -> None:
        self._marks = marks
        phases = {Begin.INSIDE: Phase.THINKING, Begin.OFF: Phase.ANSWER}
        self.phase = phases.get(begin, Phase.BETWEEN)
        self._message = marks.token("<|message|>")
        self._ends = {marks.token(tag) for tag in ("<|end|>", "<|call|>", "<|start|>")} - {None}
        self._tokens: deque[int] = deque(maxlen=_HEADER_TOKENS)
        """Since the last thinking."""

    def push(self, token: int) -> None:
        """See `Tracker.push`."""
        if self.phase is Phase.ANSWER:
            return
        if token in self._ends:
            self.phase = Phase.BETWEEN
        if self.phase is Phase.BETWEEN:
            self._tokens.append(token)
            if token == self._message:
                self.phase = self._begun()

    def _begun(self) -> Phase:
        """The phase that the header which ends here begins."""
        text = self._marks.marked(list(self._tokens), RAW)
        messages = list(messages_of(text, self._marks))
        if not messages or messages[-1].recipient is not None:
            return Phase.BETWEEN
        if messages[-1].channel == "analysis":
            self._tokens.clear()
            return Phase.THINKING
        return Phase.ANSWER if messages[-1].channel == "final" else Phase.BETWEEN
