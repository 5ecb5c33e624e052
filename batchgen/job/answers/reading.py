"""From the tokens of an answer to its columns: `reasoning`, `completion` and `tool_calls`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from batchgen.engine.request import Constraint
from batchgen.errors import ErrorCode, RowError
from batchgen.job.answers.addressed_calls import AddressedCalls
from batchgen.job.answers.call_formats import call_format
from batchgen.job.answers.calls import CallFormat, Tools, calls_column, read_calls
from batchgen.job.answers.guide import ThinkingGuide
from batchgen.job.answers.marks import Decoder, Marks, Wish
from batchgen.job.answers.thinking import Begin, ThinkingFormat, begin_in_chat, begin_in_text
from batchgen.job.answers.thinking_formats import thinking_format
from batchgen.job.answers.tool_choice import ForcedCalls
from batchgen.job.answers.tracking import num_thinking_tokens
from batchgen.job.rows import InputRow

__all__ = ["Answer", "AnswerParsers", "Reading", "guided"]

_PLAIN = Wish()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer's tokens say."""

    completion: str
    reasoning: str | None = None
    tool_calls: str | None = None
    reasoning_tokens: int | None = None
    """Of the thinking; None where there is none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers to one prompt are to be read; made with the prompt."""

    marks: Marks
    wish: Wish = _PLAIN
    thinking: ThinkingFormat | None = None
    begin: Begin = Begin.OPEN
    calls: CallFormat | None = None
    tools: Tools = Tools()  # noqa: RUF009 - frozen

    def read(self, token_ids: Sequence[int], num_cut: int = 0, key: str = "") -> Answer:
        """The columns of an answer, whose plain text loses its last `num_cut` characters to a stop
        string. `key`: what ids of calls are made of."""
        marks, wish = self.marks, self.wish
        marked = marks.without_end(marks.marked(token_ids, wish), num_cut, wish)
        thought = None
        if self.thinking is not None:
            split = self.thinking.split(marked, self.begin, marks)
            marked, thought = split.answer, split.thought
        reasoning = None if thought is None else marks.plain(thought, wish).strip() or None
        count = None if reasoning is None else self._num_thinking(token_ids)
        calls = None if self.calls is None else read_calls(self.calls, marked, marks, self.tools)
        if calls is None:
            return Answer(marks.plain(marked, wish), reasoning, reasoning_tokens=count)
        column = calls_column(calls.calls, key) if calls.calls else None
        return Answer(marks.plain(calls.content, wish), reasoning, column, count)

    def _num_thinking(self, token_ids: Sequence[int]) -> int:
        assert self.thinking is not None, "without a format there is no thinking"
        return num_thinking_tokens(self.thinking, self.begin, self.marks, token_ids)


def guided(
    reading: Reading | None, grammar: Callable[[], Constraint] | None, budget: int | None
) -> Callable[[], Constraint] | None:
    """What holds an answer to a grammar once its thinking is over, and that to its budget.

    RowError(UNSUPPORTED_SETTING) for a budget where it is not known what thinking looks like.
    """
    form = None if reading is None else reading.thinking
    if reading is None or form is None:
        if budget is None:
            return grammar
        text = "thinking_token_budget: it is not known how this prompt's answer thinks; "
        raise RowError(ErrorCode.UNSUPPORTED_SETTING, f"{text}give --reasoning-parser NAME")
    if reading.begin is Begin.OFF or (grammar is None and budget is None):
        return grammar
    return ThinkingGuide(form, reading.begin, reading.marks, grammar, budget)


class AnswerParsers:
    """What a job's flags and its model's chat template say of answers.

    `reasoning`, `tool_calls`: `auto`, `none` or a parser's name; UsageError for any other. `auto`
    reads the answers of chats alone, since raw text may be a prompt of any kind, and for calls
    those that have tools.
    """

    def __init__(
        self,
        decoder: Decoder,
        template: str | None,
        reasoning: str = "auto",
        tool_calls: str = "auto",
    ) -> None:
        self._decoder = decoder
        self._thinking = thinking_format(reasoning, template)
        self._calls = call_format(tool_calls, template)
        self.misses_calls = tool_calls == "auto" and self._calls is None and template is not None
        """Whether it is not known how this template's model writes calls."""
        self._thinks_raw, self._calls_always = reasoning != "auto", tool_calls != "auto"
        found = [one.tags for one in (self._thinking, self._calls) if one is not None]
        self._marks = Marks(decoder, chain.from_iterable(found))

    def reading(
        self, row: InputRow, prompt: str | None, token_ids: Sequence[int]
    ) -> Reading | None:
        """How a row's answers are read; None: as plain text. `prompt`: its text, if it has one."""
        params, wish = row.params, _PLAIN
        if not (params.skip_special_tokens and params.spaces_between_special_tokens):
            wish = Wish(params.skip_special_tokens, params.spaces_between_special_tokens)
        form = self._thinking if row.messages is not None or self._thinks_raw else None
        tools = row.template_kwargs.get("tools")
        calls = self._calls if tools or self._calls_always else self._addressed(row)
        if row.forced_tool is not None:
            calls = ForcedCalls(row.forced_tool)
        if form is None and calls is None and wish is _PLAIN:
            return None
        known = Tools.of(tools) if isinstance(tools, list) else Tools()
        begin = Begin.OPEN if form is None else self._begin(form, row, prompt, token_ids)
        return Reading(self._marks, wish, form, begin, calls, known)

    def _addressed(self, row: InputRow) -> CallFormat | None:
        """The format whose answers have heads, calls or not, as far as a chat template writes
        them."""
        heads = isinstance(self._calls, AddressedCalls) and row.messages is not None
        return self._calls if heads else None

    def _begin(
        self, form: ThinkingFormat, row: InputRow, prompt: str | None, token_ids: Sequence[int]
    ) -> Begin:
        if prompt is not None and row.messages is not None:
            return begin_in_chat(form, prompt, row.messages, row.template_kwargs)
        text = self._decoder.decode_batch([token_ids], False)[0] if prompt is None else prompt
        return begin_in_text(form, text, raw=True)
