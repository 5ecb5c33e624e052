"""Which tokens a row prefers, avoids or is held to: OpenAI's, vLLM's and transformers' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError
from batchgen.job.fields.number_ranges import INT32_MAX
from batchgen.job.quoting import shown

__all__ = ["TOKEN_RULE_NAMES", "over", "read_token_rules"]

_MOST = 100_000
_MOST_BIAS = 100.0
"""OpenAI's bound; beyond it a token is as good as forced or forbidden."""


def read_token_rules(given: Mapping[str, Any]) -> dict[str, Any]:
    """SamplingParams' fields of the names that are set; RowError(INVALID_PARAM) for bad values.

    `bad_words` may be texts (vLLM) or lists of ids (transformers' `bad_words_ids`). OpenAI's
    `logit_bias` maps ids written as text to numbers, transformers' `sequence_bias` is not served.
    """
    found: dict[str, Any] = {}
    if _NAMES.isdisjoint(given):
        return found
    for name, (field, read, wanted) in _READERS.items():
        value = given.get(name)
        if value is None or value in ([], {}, ""):
            continue
        try:
            rule = read(value)
        except (TypeError, ValueError, AttributeError):
            text = f"{name} must be {wanted}, not {shown(value)}"
            raise RowError(ErrorCode.INVALID_PARAM, text) from None
        found[field] = rule if field not in found else found[field] + rule
    return found


def over(base: SamplingParams, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row's own parameters as they replace those of `base`: what is forbidden there, by the model
    as a rule, stays so beside what the row forbids."""
    if not base.bad_words or "bad_words" not in own:
        return own
    return {**own, "bad_words": tuple(dict.fromkeys(base.bad_words + own["bad_words"]))}


def _bias(value: Any) -> tuple[tuple[int, float], ...]:
    _check(len(value) <= _MOST)
    pairs = {int(token): bias for token, bias in value.items() if bias is not None}
    _check(len(pairs) == sum(bias is not None for bias in value.values()))
    for token, bias in pairs.items():
        _check(0 <= token <= INT32_MAX)
        _check(type(bias) in (int, float) and -_MOST_BIAS <= bias <= _MOST_BIAS)
    return tuple((token, float(bias)) for token, bias in sorted(pairs.items()))


def _phrases(value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else list(value)
    _check(len(words) <= _MOST and all(isinstance(word, str) and word for word in words))
    return tuple(words)


def _ids(value: Any) -> tuple[int, ...]:
    _check(isinstance(value, list | tuple) and len(value) <= INT32_MAX)
    _check(all(type(token) is int and 0 <= token <= INT32_MAX for token in value))
    return tuple(value)


def _id_lists(value: Any) -> tuple[tuple[int, ...], ...]:
    lists = tuple(_ids(word) for word in value)
    _check(len(lists) <= _MOST and all(lists))
    return lists


def _suppressed(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple((token,) for token in _ids(value))


def _check(good: bool) -> None:
    if not good:
        raise ValueError


_TEXTS = "a list of non-empty strings"
_READERS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "logit_bias": ("logit_bias", _bias, "an object from token ids to numbers from -100 to 100"),
    "bad_words": ("bad_phrases", _phrases, _TEXTS),
    "bad_words_ids": ("bad_words", _id_lists, "a list of lists of token ids"),
    "suppress_tokens": ("bad_words", _suppressed, "a list of token ids"),
    "allowed_token_ids": ("allowed_token_ids", _ids, "a list of token ids"),
}
TOKEN_RULE_NAMES = tuple(_READERS)
_NAMES = frozenset(_READERS)
