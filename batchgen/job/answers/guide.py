"""What thinking does to what may come next: its budget ends it, and a grammar waits for its end.

Until then nothing is masked; where the prompt leaves open whether there is thinking, the grammar
and the tag that begins it are both allowed, so that one of the two comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchgen.engine.request import Constraint
from batchgen.errors import ErrorCode, RowError
from batchgen.job.answers.marks import Marks
from batchgen.job.answers.thinking import Begin, ThinkingFormat
from batchgen.job.answers.tracking import Phase, tracker

__all__ = ["ThinkingGuide"]

_BITS = 32


@dataclass(frozen=True, slots=True)
class ThinkingGuide:
    """Begins the constraint of an answer that may think (`Request.constraint`).

    `grammar`: begins that of the answer. `budget`: most tokens of thinking, without its tags; then
    those of `forced_end` are all that may come.
    """

    form: ThinkingFormat
    begin: Begin
    marks: Marks
    grammar: Callable[[], Constraint] | None
    budget: int | None

    def __call__(self) -> Constraint:
        """See `Request.constraint`."""
        return _Guided(self)


class _Guided:
    """`Constraint` of one answer."""

    def __init__(self, guide: ThinkingGuide) -> None:
        self._guide = guide
        self._tracker = tracker(guide.form, guide.begin, guide.marks)
        self._num_thought = 0
        self._forced: list[int] | None = None
        """What is left to force; None: nothing is forced."""
        self._opening: list[int] | None = None
        """What is left of the tag that may begin it; None: it does not begin so."""
        if self._tracker.phase is Phase.OPEN:
            self._opening = guide.marks.ids(guide.form.starts[0])
        self._grammar: Constraint | None = None
        self._grammar_holds = True

    def advance(self, token: int, room: int) -> bool:
        """See `Constraint.advance`."""
        before = self._tracker.phase
        if before is Phase.ANSWER:
            grammar = self._begun_grammar()
            return grammar is not None and grammar.advance(token, room)
        self._begin_to_force()
        is_whole = before is Phase.OPEN and self._open_grammar(token, room)
        self._tracker.push(token)
        if before is Phase.THINKING:
            self._num_thought += 1
        self._take_forced(token)
        if self._tracker.phase is Phase.ANSWER and before is not Phase.OPEN:
            self._take_rest(room)
        elif self._tracker.phase is Phase.THINKING:
            self._grammar, self._grammar_holds = None, True
        return is_whole

    def fill(self, mask: Any) -> bool:
        """See `Constraint.fill`."""
        phase = self._tracker.phase
        if phase is Phase.ANSWER:
            grammar = self._begun_grammar()
            return grammar is not None and grammar.fill(mask)
        if self._begin_to_force():
            assert self._forced
            _allow(mask, self._forced[0])
            return True
        if phase is not Phase.OPEN or self._guide.grammar is None:
            return False
        grammar = self._begun_grammar()
        if self._grammar_holds and grammar is not None and not grammar.fill(mask):
            return False
        if self._opening:
            _allow(mask, self._opening[0])
        return True

    def steer(self, mask: Any, room: int) -> None:
        """See `Constraint.steer`: thinking is not shortened for the answer's sake."""
        if (grammar := self._of_answer()) is not None:
            grammar.steer(mask, room)

    def refuses(self, token: int, room: int) -> bool:
        """See `Constraint.refuses`."""
        grammar = self._of_answer()
        return grammar is not None and grammar.refuses(token, room)

    def is_steered(self, room: int) -> bool:
        """See `Constraint.is_steered`."""
        grammar = self._of_answer()
        return grammar is not None and grammar.is_steered(room)

    def _of_answer(self) -> Constraint | None:
        return self._begun_grammar() if self._tracker.phase is Phase.ANSWER else None

    def _begun_grammar(self) -> Constraint | None:
        if self._grammar is None and self._guide.grammar is not None:
            self._grammar = self._guide.grammar()
        return self._grammar

    def _open_grammar(self, token: int, room: int) -> bool:
        """Follow the grammar as long as the answer may be one of its own; whether it is whole."""
        if self._opening is not None:
            takes = self._opening[:1] == [token]
            self._opening = self._opening[1:] if takes else None
        grammar = self._begun_grammar()
        if grammar is None or not self._grammar_holds:
            return False
        mask = np.zeros(token // _BITS + 1, dtype=np.int32)
        self._grammar_holds = not grammar.fill(mask) or _allows(mask, token)
        return self._grammar_holds and grammar.advance(token, room)

    def _begin_to_force(self) -> bool:
        """Whether the end of the thinking is forced from here on."""
        guide = self._guide
        thinks = self._tracker.phase is Phase.THINKING and guide.budget is not None
        if self._forced is None and thinks and self._num_thought >= (guide.budget or 0):
            self._forced = guide.marks.ids(guide.form.forced_end)
        return bool(self._forced)

    def _take_forced(self, token: int) -> None:
        """A forced tag ends the thinking, whatever its tokens look like."""
        if self._forced and self._forced[0] == token:
            del self._forced[0]
            if not self._forced:
                self._tracker.phase = Phase.ANSWER

    def _take_rest(self, room: int) -> None:
        """The token that ended the thinking may have begun the answer."""
        self._grammar, self._grammar_holds, self._forced = None, True, None
        rest = self._tracker.rest.strip()
        grammar = self._begun_grammar() if rest else None
        if grammar is None:
            return
        for token in self._guide.marks.ids(rest):
            mask = np.zeros(token // _BITS + 1, dtype=np.int32)
            if grammar.fill(mask) and not _allows(mask, token):
                text = "the token that ended the thinking began an answer outside the grammar"
                raise RowError(ErrorCode.INVALID_SCHEMA, text)
            grammar.advance(token, room)


def _allow(mask: Any, token: int) -> None:
    if 0 <= token < len(mask) * _BITS:
        mask.view(np.uint32)[token // _BITS] |= np.uint32(1 << token % _BITS)


def _allows(mask: Any, token: int) -> bool:
    return bool(mask.view(np.uint32)[token // _BITS] >> np.uint32(token % _BITS) & np.uint32(1))
