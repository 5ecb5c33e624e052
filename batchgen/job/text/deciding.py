"""Rows with `choices` or `questions` into the requests that decide them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from batchgen.engine.request import Question, Request, SamplingParams
from batchgen.engine.token_ids import token_array
from batchgen.errors import ErrorCode, RowError
from batchgen.job.decisions.decisions import Decisions
from batchgen.job.decisions.labels import Ways, plan_labels
from batchgen.job.decisions.question_texts import asked_chat, asked_text, labels_of, questions_of
from batchgen.job.rows import InputRow
from batchgen.job.templates.chat_template import Chat
from batchgen.job.text.overlong import PromptCut
from batchgen.job.text.prepared import FailedRow, PreparedRow, as_row_error, request_id
from batchgen.job.text.text_codec import TextCodec

__all__ = ["Deciding"]

_SCORED = SamplingParams(max_tokens=0)
"""The same for all, so that equal questions to equal texts are computed once."""


_NOT_CUT = (
    "choices cannot be asked beside truncate_prompt_tokens: questions and labels come after it"
)
_NEAR = 64
"""Tokens at a chat's end, of the header that opens the assistant's turn."""
_CUTS = 64
"""A cut text may have more tokens than were counted off."""
_CHARACTERS_AT_ONCE = 1_000_000
"""That become tokens together: each is some 10 bytes, and a prompt comes again with each label."""
_MOST_ENDS = 1024
"""Ends of chats with their labels that are kept: mostly there is one, the assistant's header."""

Texts = Sequence[str | RowError]
"""Of a row's questions, each with what comes before it."""
Known = Mapping[tuple[bool, str], list[int]]
"""Texts that are tokens by now; whether they are chats'."""


@dataclass(slots=True)
class _Plan:
    """What is known of a row so far. `prompt`: the ids of all its questions."""

    text: str | None
    prompt: list[int] = field(default_factory=list)
    ways: list[Ways] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Of its longest request."""
        return max(len(ids) for way in self.ways for ids, _ in way.requests)


@dataclass(frozen=True, slots=True)
class Deciding:
    """`render`: chats as the template's texts, or what it refused. `cut`: what is too long."""

    codec: TextCodec
    end_token_ids: Sequence[int]
    render: Callable[[Sequence[Chat]], list[str | RowError]]
    cut: PromptCut
    _ends: dict[tuple[str, ...], list[list[int]]] = field(default_factory=dict)

    def prepare(self, rows: Sequence[InputRow]) -> Iterator[PreparedRow | FailedRow]:
        """What each row became; never raises for a row's content. The template and the tokenizer
        are asked for many rows at once: threads and another process answer then."""
        texts = self._texts(rows)
        for first, last in _portions(rows, texts):
            known = self._known(rows[first:last], texts[first:last])
            for row, asked in zip(rows[first:last], texts[first:last], strict=True):
                yield self._prepare(row, asked, known)

    def _prepare(self, row: InputRow, texts: Texts, known: Known) -> PreparedRow | FailedRow:
        plan = _Plan(row.prompt)
        try:
            if row.truncate_prompt_tokens is not None:
                raise RowError(ErrorCode.INVALID_PARAM, _NOT_CUT)
            self._fill(plan, row, texts, known)
            if self.cut.excess(plan.num_tokens):
                self._cut_to_fit(plan, row)
        except Exception as error:
            problem = as_row_error(error, ErrorCode.INTERNAL, "the tokenizer failed")
            return FailedRow(row, problem, plan.text, len(plan.prompt) or None)
        names = tuple(question.name for question in row.params.questions)
        decisions = Decisions(tuple(plan.ways), names)
        prompt = token_array(plan.prompt)
        return PreparedRow(row, plan.text, prompt, _requests(row, plan.ways), decisions)

    def _fill(self, plan: _Plan, row: InputRow, texts: Texts, known: Known) -> None:
        plan.prompt, plan.ways = [], []
        for asked, encoded, labels in self._encoded(row, texts, known):
            if row.messages is not None and not plan.ways:
                plan.text = asked  # of raw prompts it is the row's own text
            if not encoded[0]:
                raise RowError(ErrorCode.EMPTY_PROMPT, "the prompt has no token")
            last, size = max(max(ids, default=0) for ids in encoded), self.codec.vocab_size
            if last >= size:
                text = f"token id {last} is outside the model's vocabulary of {size}"
                raise RowError(ErrorCode.INVALID_ROW, text)
            plan.prompt += encoded[0]
            plan.ways.append(plan_labels(labels, encoded[0], encoded[1:], self.end_token_ids))

    def _cut_to_fit(self, plan: _Plan, row: InputRow) -> None:
        """All questions are put to the same text: what fits the longest of them."""
        self.cut.num_cut += 1
        for _ in range(_CUTS):
            excess = self.cut.excess(plan.num_tokens)
            if not excess:
                return
            row = self.cut.without(row, excess)
            self._fill(plan, row, self._texts([row])[0], {})
        raise RowError(ErrorCode.PROMPT_TOO_LONG, "the prompt cannot be cut to fit its labels")

    def _encoded(
        self, row: InputRow, texts: Texts, known: Known
    ) -> Iterator[tuple[str | None, list[list[int]], tuple[str, ...]]]:
        """For each question: the prompt's text, its ids and then those of it with each label, and
        the labels."""
        questions = questions_of(row.params)
        if row.prompt is None and row.messages is None:
            for question in questions:
                labels = labels_of(question, row.params)
                yield None, self._after_ids(row.prompt_token_ids or [], question, labels), labels
            return
        for question, text in zip(questions, texts, strict=True):
            if isinstance(text, RowError):
                raise text
            labels = labels_of(question, row.params)
            if row.messages is None:
                joined = [text, *(text + label for label in labels)]
                found = [known[False, one] for one in joined if (False, one) in known]
                encoded = found if len(found) == len(joined) else self._open_ended(joined)
            else:
                whole = known.get((True, text)) or self.codec.encode_rendered([text])[0]
                encoded = self._chat_with_labels(text, whole, labels)
            yield text, encoded, labels

    def _open_ended(self, texts: Sequence[str]) -> list[list[int]]:
        """Raw texts' ids without what the tokenizer puts behind them, as an EOS: it ends no text
        here, and is no part of a label."""
        num_behind = self.codec.num_behind
        return [ids[: len(ids) - num_behind] for ids in self.codec.encode_batch(texts)]

    def _texts(self, rows: Sequence[InputRow]) -> list[Texts]:
        chats: list[Chat] = [
            (asked_chat(row.messages, question), row.template_kwargs)
            for row in rows
            if row.messages is not None
            for question in questions_of(row.params)
        ]
        rendered = iter(self.render(chats) if chats else ())
        return [
            [
                asked_text(row.prompt or "", question) if row.messages is None else next(rendered)
                for question in questions_of(row.params)
            ]
            for row in rows
        ]

    def _known(self, rows: Sequence[InputRow], texts: Sequence[Texts]) -> Known:
        """What these rows need. Nothing of raw prompts, or of chats, where one of them cannot be
        tokenised: each is on its own then."""
        known: dict[tuple[bool, str], list[int]] = {}
        for is_chat, encode in ((False, self._open_ended), (True, self.codec.encode_rendered)):
            wanted = [
                text
                for row, asked in zip(rows, texts, strict=True)
                if (row.messages is not None) is is_chat
                for text in _wanted(row, asked)
            ]
            with suppress(Exception):  # which is then the row's, whose it is
                encoded = encode(wanted) if wanted else []
                known.update(zip(((is_chat, text) for text in wanted), encoded, strict=True))
        return known

    def _chat_with_labels(
        self, text: str, whole: list[int], labels: Sequence[str]
    ) -> list[list[int]]:
        """Ids of a chat's text, and of it with each label. What comes before its last special token
        is tokenised once: such a token parts what is before it from what is after."""
        mark = self._last_mark(whole)
        end = text[text.rfind(mark) :] if mark is not None and mark in text else text
        short, *joined = self._end_with_labels(end, labels)
        if end == text or whole[-len(short) :] != short:
            return self.codec.encode_rendered([text, *(text + label for label in labels)])
        before = whole[: -len(short)]
        return [whole, *([*before, *ids] for ids in joined)]

    def _end_with_labels(self, end: str, labels: Sequence[str]) -> list[list[int]]:
        key = (end, *labels)
        found = self._ends.get(key)
        if found is None:
            found = self.codec.encode_plain([end, *(end + label for label in labels)])
            if len(self._ends) < _MOST_ENDS:
                self._ends[key] = found
        return found

    def _last_mark(self, token_ids: Sequence[int]) -> str | None:
        """The last special token of a chat, as text, if it is near the end."""
        for token in reversed(token_ids[-_NEAR:]):
            text = self.codec.token_bytes(token).decode("utf-8", "replace")
            if self.codec.special_token_id(text) == token:
                return text
        return None

    def _after_ids(
        self, token_ids: list[int], question: Question | None, labels: Sequence[str]
    ) -> list[list[int]]:
        """Ids have no text that labels could be joined to: each follows as it is."""
        asked = [asked_text("", question)] if question is not None else []
        encoded = self.codec.encode_plain([*asked, *labels])
        prompt = [*token_ids, *(encoded[0] if asked else ())]
        return [prompt, *([*prompt, *ids] for ids in encoded[len(asked) :])]


def _wanted(row: InputRow, texts: Texts) -> Iterator[str]:
    """The texts of which a row's tokens are made."""
    for question, text in zip(questions_of(row.params), texts, strict=True):
        if isinstance(text, RowError) or row.prompt_token_ids is not None:
            continue
        yield text
        if row.messages is None:
            yield from (text + label for label in labels_of(question, row.params))


def _portions(rows: Sequence[InputRow], texts: Sequence[Texts]) -> Iterator[tuple[int, int]]:
    """From which row to which one rows have so many characters together, or one has more."""
    first = size = 0
    for place, (row, asked) in enumerate(zip(rows, texts, strict=True)):
        own = sum(map(len, _wanted(row, asked)))
        if size and size + own > _CHARACTERS_AT_ONCE:
            yield first, place
            first, size = place, 0
        size += own
    yield first, len(rows)


def _requests(row: InputRow, ways: Sequence[Ways]) -> list[Request]:
    scored = [one for way in ways for one in way.requests]
    adapter = row.params.adapter
    params = replace(_SCORED, adapter=adapter) if adapter else _SCORED
    return [
        Request(request_id(row.index, number), token_ids, params, targets=targets)
        for number, (token_ids, targets) in enumerate(scored)
    ]
