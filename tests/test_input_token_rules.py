"""Biased, forbidden and allowed tokens: the names of OpenAI, vLLM and transformers."""

from __future__ import annotations

from typing import Any

import pytest

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError
from batchgen.job.fields.params import apply, read_params
from batchgen.job.rows import InputRow
from batchgen.job.text.byte_codec import ByteCodec
from batchgen.job.text.requests import Requests


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"logit_bias": {"7": -100, "3": 1.5, "9": None}}, {"logit_bias": ((3, 1.5), (7, -100.0))}),
        ({"bad_words": ["no", "never"]}, {"bad_phrases": ("no", "never")}),
        ({"bad_words_ids": [[1, 2], [3]]}, {"bad_words": ((1, 2), (3,))}),
        ({"suppress_tokens": [4], "bad_words_ids": [[1]]}, {"bad_words": ((1,), (4,))}),
        ({"allowed_token_ids": [5, 6]}, {"allowed_token_ids": (5, 6)}),
        ({"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 3}),
        ({"logit_bias": {}, "bad_words": [], "allowed_token_ids": None}, {}),
    ],
    ids=str,
)
def test_every_name_is_read(given: dict[str, Any], read: dict[str, Any]) -> None:
    assert read_params(given) == read


@pytest.mark.parametrize(
    "given",
    [
        {"logit_bias": {"a": 1}},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": {"1": 1, "01": 2}},
        {"logit_bias": {"1": True}},
        {"logit_bias": [1]},
        {"bad_words": ["a", ""]},
        {"bad_words": [3]},
        {"bad_words_ids": [[]]},
        {"bad_words_ids": [3]},
        {"allowed_token_ids": [-1]},
        {"allowed_token_ids": 5},
        {"no_repeat_ngram_size": -1},
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_its_name(given: dict[str, Any]) -> None:
    with pytest.raises(RowError, match=next(iter(given))) as caught:
        read_params(given)
    assert caught.value.code is ErrorCode.INVALID_PARAM


def test_bad_words_are_forbidden_alone_and_after_a_space() -> None:
    params = apply(SamplingParams(), read_params({"bad_words": ["ab"], "suppress_tokens": [9]}))
    ready, failed = Requests(ByteCodec()).prepare([InputRow(0, "f:1", prompt="x", params=params)])
    assert not failed
    assert ready[0].requests[0].params.bad_words == ((9,), (97, 98), (32, 97, 98))
