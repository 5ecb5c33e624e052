"""Rows with `choices` or `questions` into the requests that decide them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from batchgen.engine.request import Question, Request, SamplingParams
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

    def prepare(self, row: InputRow) -> PreparedRow | FailedRow:
        """Never raises for a row's content."""
        plan = _Plan(row.prompt)
        try:
            if row.truncate_prompt_tokens is not None:
                raise RowError(ErrorCode.INVALID_PARAM, _NOT_CUT)
            self._fill(plan, row)
            if self.cut.excess(plan.num_tokens):
                self._cut_to_fit(plan, row)
        except Exception as error:
            problem = as_row_error(error, ErrorCode.INTERNAL, "the tokenizer failed")
            return FailedRow(row, problem, plan.text, len(plan.prompt) or None)
        names = tuple(question.name for question in row.params.questions)
        decisions = Decisions(tuple(plan.ways), names)
        return PreparedRow(row, plan.text, plan.prompt, _requests(row, plan.ways), decisions)

    def _fill(self, plan: _Plan, row: InputRow) -> None:
        plan.prompt, plan.ways = [], []
        for asked, encoded, labels in self._encoded(row):
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
            self._fill(plan, row)
        raise RowError(ErrorCode.PROMPT_TOO_LONG, "the prompt cannot be cut to fit its labels")

    def _encoded(
        self, row: InputRow
    ) -> Iterator[tuple[str | None, list[list[int]], tuple[str, ...]]]:
        """For each question: the prompt's text, its ids and then those of it with each label, and
        the labels."""
        questions = questions_of(row.params)
        if row.prompt is None and row.messages is None:
            for question in questions:
                labels = labels_of(question, row.params)
                yield None, self._after_ids(row.prompt_token_ids or [], question, labels), labels
            return
        for question, text in zip(questions, self._texts(row, questions), strict=True):
            if isinstance(text, RowError):
                raise text
            labels = labels_of(question, row.params)
            if row.messages is None:
                encoded = self._open_ended([text, *(text + label for label in labels)])
            else:
                encoded = self._chat_with_labels(text, labels)
            yield text, encoded, labels

    def _open_ended(self, texts: Sequence[str]) -> list[list[int]]:
        """Raw texts' ids without what the tokenizer puts behind them, as an EOS: it ends no text
        here, and is no part of a label."""
        num_behind = self.codec.num_behind
        return [ids[: len(ids) - num_behind] for ids in self.codec.encode_batch(texts)]

    def _texts(
        self, row: InputRow, questions: Sequence[Question | None]
    ) -> Sequence[str | RowError]:
        if row.messages is None:
            return [asked_text(row.prompt or "", question) for question in questions]
        chats: list[Chat] = [
            (asked_chat(row.messages, question), row.template_kwargs) for question in questions
        ]
        return self.render(chats)

    def _chat_with_labels(self, text: str, labels: Sequence[str]) -> list[list[int]]:
        """Ids of a chat's text, and of it with each label. What comes before its last special token
        is tokenised once: such a token parts what is before it from what is after."""
        (whole,) = self.codec.encode_rendered([text])
        mark = self._last_mark(whole)
        end = text[text.rfind(mark) :] if mark is not None and mark in text else text
        short, *joined = self.codec.encode_plain([end, *(end + label for label in labels)])
        if end == text or whole[-len(short) :] != short:
            return self.codec.encode_rendered([text, *(text + label for label in labels)])
        before = whole[: -len(short)]
        return [whole, *([*before, *ids] for ids in joined)]

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


def _requests(row: InputRow, ways: Sequence[Ways]) -> list[Request]:
    scored = [one for way in ways for one in way.requests]
    adapter = row.params.adapter
    params = replace(_SCORED, adapter=adapter) if adapter else _SCORED
    return [
        Request(request_id(row.index, number), token_ids, params, targets=targets)
        for number, (token_ids, targets) in enumerate(scored)
    ]
