"""Sampling parameters of a call: an object that says everything, or names over the defaults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from batchgen.engine.request import MAX_TOP_LOGPROBS, SamplingParams, StructuredOutput
from batchgen.errors import ErrorCode, RowError, UsageError
from batchgen.job.fields.params import apply, read_params
from batchgen.job.quoting import shown

__all__ = ["ParamsLike", "base_params", "checked", "each_of"]

ParamsLike = SamplingParams | Mapping[str, Any]
"""A `SamplingParams` says everything; a mapping only what it names, as a row's `params` do."""

_READ_APART = ("structured_outputs", "logit_bias", "bad_words", "bad_phrases", "top_logprobs")


def base_params(given: ParamsLike | None, default: SamplingParams) -> SamplingParams:
    """What rows of a call get that say nothing themselves. UsageError for what cannot be."""
    try:
        if given is None:
            return default
        if isinstance(given, SamplingParams):
            return checked(given)
        own: Any = given
        if not isinstance(own, Mapping):
            text = f"it must be a SamplingParams or a dict, not {shown(own)}"
            raise RowError(ErrorCode.INVALID_PARAM, text)
        return apply(default, read_params(own))
    except RowError as error:
        hint = "sampling parameters take the names and values that a row's do"
        raise UsageError(f"sampling_params: {error.message}", hint) from None


def each_of(given: Any) -> Iterator[ParamsLike | None]:
    """One for each row. UsageError for what holds none."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        text = f"sampling_params must be a SamplingParams, a dict or a list of them, not {given!r}"
        raise UsageError(text, 'write {"temperature": 0.7}, say')
    return iter(given)


def checked(given: SamplingParams) -> SamplingParams:
    """The same, its values checked and of their own types. Raises RowError(INVALID_PARAM)."""
    values = {one.name: getattr(given, one.name) for one in fields(given)}
    names = {name: value for name, value in values.items() if name not in _READ_APART}
    names["logit_bias"] = dict(given.logit_bias or ())
    words: tuple[Any, ...] = tuple(given.bad_words or ())  # or texts, as a row has them
    texts = [word for word in words if isinstance(word, str)]
    names["bad_words_ids"] = [list(word) for word in words if not isinstance(word, str)]
    names["bad_words"] = [*given.bad_phrases, *texts]
    structured: Any = given.structured_outputs  # or a mapping, as a row has it
    if structured is not None and not isinstance(structured, StructuredOutput):
        names["structured_outputs"] = structured
    if names["max_tokens"] is None:
        text = "max_tokens must be a number: what does not fit the model's context is cut"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    own = read_params({name: value for name, value in names.items() if value is not None})
    if isinstance(structured, StructuredOutput):
        own["structured_outputs"] = structured
    if not 0 <= given.top_logprobs <= MAX_TOP_LOGPROBS:
        text = f"top_logprobs must be from 0 to {MAX_TOP_LOGPROBS}, not {given.top_logprobs}"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    return apply(SamplingParams(), own | {"top_logprobs": given.top_logprobs})
