"""A row's text with one of its questions: the question comes last, after a blank line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.engine.request import Question, SamplingParams

__all__ = ["asked_chat", "asked_text", "labels_of", "questions_of"]

_BETWEEN = "\n\n"


def questions_of(params: SamplingParams) -> tuple[Question | None, ...]:
    """The row's questions; None: the choices are put to its text as it is."""
    return params.questions or (None,)


def labels_of(question: Question | None, params: SamplingParams) -> tuple[str, ...]:
    """The question's own labels, else the row's."""
    return params.choices if question is None or not question.choices else question.choices


def asked_text(text: str, question: Question | None) -> str:
    """A raw prompt with a question."""
    return text if question is None else f"{text}{_BETWEEN}{question.text}"


def asked_chat(
    messages: Sequence[Mapping[str, Any]], question: Question | None
) -> list[dict[str, Any]]:
    """A chat with a question: in its last message where that is the user's, so that turns go on
    alternating, else in a message of its own."""
    chat = [dict(message) for message in messages]
    if question is None:
        return chat
    if not chat or chat[-1].get("role") != "user":
        return [*chat, {"role": "user", "content": question.text}]
    content = chat[-1].get("content")
    if isinstance(content, list):  # of parts
        chat[-1]["content"] = [*content, {"type": "text", "text": f"{_BETWEEN}{question.text}"}]
    else:
        chat[-1]["content"] = asked_text(content or "", question)
    return chat
