"""Parameters: one table of names, types and ranges; row over flag over model over built-in."""

from __future__ import annotations

from typing import Any

import pytest

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError, UsageError
from batchgen.job.fields.params import merge, read_params, validate_flags


def code_of(given: dict[str, Any]) -> ErrorCode:
    with pytest.raises(RowError) as caught:
        read_params(given)
    return caught.value.code


def test_a_row_wins_over_a_flag_over_the_model_over_the_built_in() -> None:
    model = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "max_tokens": 99}
    flags = {"temperature": 0.7, "top_p": 0.8}
    params = merge({"temperature": 1.5}, flags, model)
    assert params == SamplingParams(temperature=1.5, top_p=0.8, top_k=20, max_tokens=99)
    assert merge({}, {}, {}) == SamplingParams()
    assert SamplingParams().max_tokens == 256
    assert merge({}, {}, {}).greedy


def test_null_is_not_set() -> None:
    assert merge({"temperature": None, "stop": None, "seed": None}, {"temperature": 0.5}, {}) == (
        SamplingParams(temperature=0.5)
    )


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_new_tokens"])
def test_every_name_of_max_tokens_is_read(name: str) -> None:
    assert merge({name: 7}, {}, {}).max_tokens == 7


def test_two_names_of_one_parameter_must_agree() -> None:
    assert read_params({"max_tokens": 7, "max_new_tokens": 7}) == {"max_tokens": 7}
    assert code_of({"max_tokens": 7, "max_new_tokens": 8}) is ErrorCode.INVALID_PARAM


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("stop", "\n", ("\n",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("stop", [], ()),
        ("stop_token_ids", [2, 5], (2, 5)),
        ("top_k", -1, 0),
        ("top_k", 5.0, 5),
        ("temperature", 1, 1.0),
        ("temperature", 100, 100.0),
        ("temperature", 1e-6, 1e-6),
        ("temperature", 1e-40, 0.0),  # float32 cannot divide by it: the likeliest token
        ("top_p", 1, 1.0),
        ("seed", -(2**63), -(2**63)),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("n", 1024, 1024),
        ("ignore_eos", True, True),
        ("logprobs", 3, 3),
        ("logprobs", True, 0),
        ("logprobs", False, None),
    ],
)
def test_values_at_the_edge_are_read(name: str, value: Any, read: Any) -> None:
    result = read_params({name: value})[name]
    assert result == read
    assert type(result) is type(read)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", "7"),
        ("max_tokens", True),
        ("max_tokens", 2**31),
        ("temperature", -0.1),
        ("temperature", 100.1),
        ("temperature", True),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 10**400),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("min_p", -1),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.1),
        ("n", 0),
        ("n", 1025),
        ("seed", 2**63),
        ("stop", ""),
        ("stop", [1]),
        ("stop", ["a", ""]),
        ("stop", ["x"] * 200),
        ("stop", {"a": 1}),
        ("stop_token_ids", [True]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", "2"),
        ("ignore_eos", 1),
        ("logprobs", 21),
        ("top_logprobs", "many"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_names_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(RowError, match=rf"^{name} must be .+, not ") as caught:
        read_params({name: value})
    assert caught.value.code is ErrorCode.INVALID_PARAM
    assert len(caught.value.message) < 250


def test_an_unknown_name_is_an_error_unless_it_is_null() -> None:
    assert code_of({"temprature": 0.5}) is ErrorCode.UNKNOWN_PARAM
    assert read_params({"temprature": None}) == {}


@pytest.mark.parametrize("name", ["suffix", "min_length", "best_of"])
def test_a_parameter_that_is_not_served_is_refused_and_never_ignored(name: str) -> None:
    assert code_of({name: {"type": "x"}}) is ErrorCode.UNSUPPORTED_SETTING
    assert read_params({name: None}) == {}


def test_min_tokens_above_max_tokens_is_an_error_where_the_row_asks_for_it() -> None:
    assert code_of({"min_tokens": 9, "max_tokens": 8}) is ErrorCode.INVALID_PARAM
    with pytest.raises(RowError, match="min_tokens 9 is above max_tokens 8"):
        merge({"min_tokens": 9}, {"max_tokens": 8}, {})
    assert merge({"max_tokens": 8}, {"min_tokens": 9}, {}).min_tokens == 8


def test_flags_share_the_table_and_fail_as_usage() -> None:
    assert validate_flags({"stop": ("a",), "top_p": 0.5}) == {"stop": ("a",), "top_p": 0.5}
    with pytest.raises(UsageError, match="top_p must be"):
        validate_flags({"top_p": 0.0})


def test_an_impossible_generation_config_is_named() -> None:
    with pytest.raises(UsageError, match=r"generation_config: top_p must be"):
        merge({}, {}, {"top_p": 7})
    assert merge({}, {"top_p": 0.5}, {"top_p": 7}).top_p == 0.5


def test_min_tokens_above_the_default_max_tokens_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="min_tokens 300 is above max_tokens 256"):
        merge({}, {"min_tokens": 300}, {})
    assert merge({}, {"max_tokens": 10}, {"min_tokens": 20}).min_tokens == 10


def test_a_misspelt_parameter_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(RowError, match=r'"temprature"; did you mean temperature\?'):
        read_params({"temprature": 1})
    with pytest.raises(RowError, match=r'unknown parameter "zzz"$'):
        read_params({"zzz": 1})
