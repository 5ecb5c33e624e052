"""`choices` and `questions` of a row, and what they cannot be asked beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.engine.request import Question, SamplingParams
from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown

__all__ = [
    "DECISION_NAMES",
    "check_decision",
    "labels_in",
    "read_decisions",
    "read_labels",
    "unheeded",
]

DECISION_NAMES = ("choices", "questions")
_MOST_LABELS = 1024
"""Of a row, over all its questions."""
_KEYS = {"name", "question", "prompt", "choices"}
_UNHEEDED = {
    "n": 1,
    "structured_outputs": None,
    "prompt_logprobs": None,
    "logit_bias": (),
    "bad_words": (),
    "bad_phrases": (),
    "allowed_token_ids": (),
    "no_repeat_ngram_size": 0,
}
"""Fields of SamplingParams that ask for another choice than the model's own: no label heeds them,
so they must be as they are here."""

_OF_SAMPLING = (
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "logprobs",
    "thinking_token_budget",
)
"""Fields that jobs and OpenAI's bodies often set for all rows: a row that decides heeds none."""
_NEUTRAL = SamplingParams()


def unheeded(params: SamplingParams, default: SamplingParams) -> list[str]:
    """What a row that decides is told of: settings that would change a sampled text, and are not
    what the model gives to rows that set nothing."""
    if not params.decides:
        return []
    return [
        name
        for name in _OF_SAMPLING
        if getattr(params, name) not in (getattr(_NEUTRAL, name), getattr(default, name))
    ]


def read_decisions(given: Mapping[str, Any]) -> dict[str, Any]:
    """SamplingParams' fields of the names that are set; RowError(INVALID_PARAM) for bad values."""
    found: dict[str, Any] = {}
    if given.get("choices") not in (None, "", [], ()):
        found["choices"] = read_labels("choices", given["choices"])
    if given.get("questions") not in (None, "", [], ()):
        found["questions"] = _read_questions(given["questions"])
    return found


def read_labels(where: str, value: Any) -> tuple[str, ...]:
    """A list of labels, JSON text of one, or labels with commas between them."""
    if isinstance(value, str):
        value = labels_in(where, value)
    if not isinstance(value, list | tuple):
        raise _invalid(f"{where} must be a list of labels, not {shown(value)}")
    if not all(type(label) in (str, int) for label in value):
        raise _invalid(f"{where} must hold strings, not {shown(value)}")
    labels = tuple(map(str, value))
    if any(not label.strip() for label in labels):
        raise _invalid(f"{where} holds an empty label")
    if len(set(labels)) < len(labels):
        raise _invalid(f"{where} holds {shown(_twice(labels))} twice")
    if len(labels) < 2:
        raise _invalid(f"{where} must hold two labels at least, not {shown(value)}")
    return labels


def check_decision(params: SamplingParams) -> SamplingParams:
    """The same, fit to be decided where it decides. RowError(INVALID_PARAM) says what is not."""
    if not params.decides:
        return params
    what = "questions" if params.questions else "choices"
    for name, neutral in _UNHEEDED.items():
        if getattr(params, name) != neutral:
            raise _invalid(f"{what} cannot be asked beside {name}: a label is no sampled text")
    without = [q.name for q in params.questions if not (q.choices or params.choices)]
    if without:
        raise _invalid(f"question {shown(without[0])} has no choices, and neither has the row")
    labels = sum(len(q.choices or params.choices) for q in params.questions) or len(params.choices)
    if labels > _MOST_LABELS:
        raise _invalid(f"{what}: {labels:,} labels; a row may have {_MOST_LABELS:,}")
    return params


def labels_in(where: str, text: str) -> Any:
    """What a text lists: JSON's items, or those between commas."""
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",")]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _invalid(f"{where} is no JSON list: {shown(text)}") from None


def _read_questions(value: Any) -> tuple[Question, ...]:
    if isinstance(value, str):
        value = labels_in("questions", value if value.lstrip().startswith("[") else f"[{value}]")
    if not isinstance(value, list | tuple):
        raise _invalid(f"questions must be a list of objects, not {shown(value)}")
    questions = tuple(_read_question(number, item) for number, item in enumerate(value, 1))
    names = [question.name for question in questions]
    if len(set(names)) < len(names):
        raise _invalid(f"two questions are named {shown(_twice(names))}")
    return questions


def _read_question(number: int, item: Any) -> Question:
    where = f"question {number}"
    if isinstance(item, Question):  # from Python
        item = {"name": item.name, "question": item.text, "choices": item.choices}
    if not isinstance(item, Mapping):
        raise _invalid(f"{where} must be an object, not {shown(item)}")
    unknown = [key for key, value in item.items() if key not in _KEYS and value is not None]
    if unknown:
        known = ", ".join(sorted(_KEYS))
        raise _invalid(f"{where} has an unknown key {shown(unknown[0])}; it takes {known}")
    texts = [item[key] for key in ("question", "prompt") if item.get(key) is not None]
    if len(texts) != 1 or not isinstance(texts[0], str) or not texts[0].strip():
        raise _invalid(f"{where} needs its text, as `question`")
    name = item.get("name")
    if name is not None and not (isinstance(name, str) and name):
        raise _invalid(f"{where}: name must be a string, not {shown(name)}")
    choices = item.get("choices")
    labels = () if choices in (None, "", [], ()) else read_labels(f"{where}: choices", choices)
    return Question(name or f"q{number}", texts[0], labels)


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _invalid(text: str) -> RowError:
    return RowError(ErrorCode.INVALID_PARAM, text)
