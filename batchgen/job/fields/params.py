"""Sampling parameters: their names and types, and who wins when several set one.

One table serves rows, flags and the model's generation_config. Names are those of OpenAI and vLLM.
Precedence: row, flag (the environment fills flags), generation_config, built-in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError, UsageError
from batchgen.job.decisions.settings import DECISION_NAMES, check_decision, read_decisions
from batchgen.job.fields.number_ranges import INT32_MAX, NUMBERS, TOKEN_ID
from batchgen.job.fields.other_names import nearest
from batchgen.job.fields.setting_names import SETTING_NAMES
from batchgen.job.fields.settings import TEMPLATE_NAMES, TRUNCATE, check_setting
from batchgen.job.fields.structured import STRUCTURED_NAMES, read_structured
from batchgen.job.fields.token_rules import TOKEN_RULE_NAMES, over, read_token_rules
from batchgen.job.model.adapter_choice import ADAPTER, read_adapter
from batchgen.job.quoting import shown
from batchgen.job.spec import SamplingDefaults

__all__ = [
    "PARAMETER_NAMES",
    "apply",
    "merge",
    "near_miss",
    "read_params",
    "scoring",
    "validate_flags",
]

_MAX_STOPS = 128
_ALIASES = {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "no_stop_trim": "include_stop_str_in_output",
    "reasoning_budget": "thinking_token_budget",
    "sampling_seed": "seed",
    "thinking_budget": "thinking_token_budget",
}
_BOOLS = (
    *("ignore_eos", "echo", "skip_special_tokens", "spaces_between_special_tokens"),
    *("include_stop_str_in_output", "no_stop_trim"),
)
_LISTS = ("stop", "stop_token_ids", *_BOOLS, "top_logprobs", ADAPTER, *TOKEN_RULE_NAMES)
_OR_BOOL = ("logprobs", "prompt_logprobs")
_OF_TOKENS = (*_OR_BOOL, "top_logprobs")
_OF_LABELS = "; choices gives the probability of each label, however unlikely"
_OF_OUTPUT = ("max_tokens", "min_tokens", "n")

_READ_APART = frozenset((*STRUCTURED_NAMES, *TOKEN_RULE_NAMES, *DECISION_NAMES))
PARAMETER_NAMES = frozenset((*NUMBERS, *_ALIASES, *_LISTS)) | _READ_APART
"""Every key that is a parameter, in `params` and at a row's top level."""


def read_params(given: Mapping[str, Any]) -> dict[str, Any]:
    """Canonical name -> valid value of the parameters that are set (null = not set).

    What the chat template reads is passed over. RowError: UNKNOWN_PARAM for a name that is none,
    UNSUPPORTED_SETTING for one that is not served, INVALID_PARAM for a value out of its range or a
    parameter set twice, under two names, to different values.
    """
    params: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or name in _READ_APART or name in TEMPLATE_NAMES or name == TRUNCATE:
            continue
        if name in PARAMETER_NAMES:
            _add(params, name, _read(name, value))
        elif name in SETTING_NAMES:
            check_setting(name, value, given)
        else:
            text = f"unknown parameter {shown(name)}{_guess(name)}"
            raise RowError(ErrorCode.UNKNOWN_PARAM, text)
    params |= read_structured(given) | read_token_rules(given) | read_decisions(given)
    _settle_logprobs(params)
    _settle_scoring(params)
    _check_min_tokens(params)
    return params


def validate_flags(flags: SamplingDefaults) -> SamplingDefaults:
    """The flags' values, checked by the table that checks rows; UsageError names the flag."""
    try:
        return read_params(flags)
    except RowError as error:
        hint = "sampling flags take the values that a row's parameters take"
        raise UsageError(error.message, hint) from None


def scoring(flags: SamplingDefaults) -> SamplingDefaults:
    """What `--score` adds to the flags: each text's own log-probabilities, nothing generated."""
    for name in flags:
        if name in _OF_OUTPUT:
            flag = name.replace("_", "-")
            text = f"--score generates nothing, and --{flag} is about what is generated"
            raise UsageError(text, "leave one of the two out")
    return {"max_tokens": 0, "prompt_logprobs": max(0, flags.get("top_logprobs", 0))}


def merge(
    row_params: Mapping[str, Any],
    flags: SamplingDefaults,
    generation_defaults: Mapping[str, Any],
) -> SamplingParams:
    """Row over flag over the model's generation_config over the built-in defaults.

    RowError as `read_params`; UsageError for a generation_config with impossible values.
    """
    return apply(_job_params(flags, generation_defaults), read_params(row_params))


def apply(base: SamplingParams, own: Mapping[str, Any]) -> SamplingParams:
    """`base` with a row's own parameters (as `read_params` gives them) over it.

    A `min_tokens` inherited from above yields to a smaller `max_tokens`.
    """
    if not base.max_tokens:  # --score: nothing is generated, whatever a row says of that
        own = {name: value for name, value in own.items() if name not in _OF_OUTPUT}
    if not own:
        return base
    params = check_decision(dataclasses.replace(base, **over(base, own)))
    if params.min_tokens <= params.max_tokens:
        return params
    if "min_tokens" in own and "max_tokens" not in own:
        text = f"min_tokens {params.min_tokens} is above max_tokens {params.max_tokens}"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    return dataclasses.replace(params, min_tokens=params.max_tokens)


def _job_params(flags: SamplingDefaults, model: Mapping[str, Any]) -> SamplingParams:
    """What a row without parameters gets. A flag also mends an impossible value of the model."""
    given = validate_flags(flags)
    try:
        settings = read_params({k: v for k, v in model.items() if k not in given})
    except RowError as error:
        hint = "correct the model's generation_config.json, or give the flag"
        raise UsageError(f"generation_config: {error.message}", hint) from None
    try:
        return apply(SamplingParams(), {**settings, **given})
    except RowError as error:
        decides = "choices" in error.message
        hint = "leave one of the two flags out" if decides else "give --max-tokens too"
        raise UsageError(error.message, hint) from None


def near_miss(name: str, likeness: float | None = None) -> str | None:
    """The parameter that a name is likely a misspelling of, or another tool's name of."""
    return nearest(name, PARAMETER_NAMES - {*DECISION_NAMES}, likeness)  # `question` is no slip


def _guess(name: str) -> str:
    near = near_miss(name, 0.6)
    return f"; did you mean {near}?" if near else ""


def _add(params: dict[str, Any], name: str, value: Any) -> None:
    key = _ALIASES.get(name, name)
    if key in params and params[key] != value:
        text = f"{key} is set twice, to {shown(params[key])} and {shown(value)}"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    params[key] = value


def _read(name: str, value: Any) -> Any:
    try:
        if name == ADAPTER:
            return read_adapter(value)
        if name in ("stop", "stop_token_ids"):
            return _read_stops(name, value)
        if name in _BOOLS or (name in _OR_BOOL and type(value) is bool):
            return _read_bool(value)
        ours = _ALIASES.get(name, name)
        if ours == "max_tokens" and type(value) is int and value == 0:
            return 0  # of a prompt that is scored: `_settle_scoring`
        number = NUMBERS["logprobs" if name == "top_logprobs" else ours]
        read = number.read(value)
        if number is NUMBERS["thinking_token_budget"] and read < 0:
            return None  # no bound, as llama.cpp has it
        return max(read, 0) if name == "top_k" else read
    except ValueError as allowed:
        more = _OF_LABELS if name in _OF_TOKENS else ""
        text = f"{name} must be {allowed}, not {shown(value)}{more}"
        raise RowError(ErrorCode.INVALID_PARAM, text) from None


def _read_stops(name: str, value: Any) -> tuple[Any, ...]:
    """`stop` as a string or a list of them; `stop_token_ids` as an integer or a list of them."""
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > _MAX_STOPS:
        raise ValueError(f"a list of at most {_MAX_STOPS}")
    if name == "stop_token_ids":
        try:
            return tuple(TOKEN_ID.read(item) for item in items)
        except ValueError:
            raise ValueError("a list of token ids (integers from 0)") from None
    if not all(isinstance(item, str) and item for item in items):
        raise ValueError("a non-empty string or a list of them")
    return tuple(items)


def _read_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("true or false")
    return value


def _settle_logprobs(params: dict[str, Any]) -> None:
    """OpenAI's chat form, `logprobs: true` with `top_logprobs: k`, and vLLM's, `logprobs: k`, as
    one: the chosen token's, and those of the k most likely ones."""
    top, wanted = params.get("top_logprobs"), params.get("logprobs")
    if wanted is None and top is None:
        return
    count = max(top or 0, int(wanted or 0) if type(wanted) is int else 0)
    off = wanted is False
    params |= {"logprobs": None if off else count, "top_logprobs": 0 if off else count}


def _settle_scoring(params: dict[str, Any]) -> None:
    """`prompt_logprobs` of vLLM, and the completions API's way to score a text: `echo` and
    `logprobs` with `max_tokens` 0."""
    if params.pop("echo", False):
        wanted = params.pop("logprobs", None)
        if wanted is None or params.get("max_tokens") != 0:
            text = "echo: true is served where it scores a text: with logprobs and max_tokens 0"
            raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)
        params.pop("top_logprobs")
        params["prompt_logprobs"] = max(wanted, int(params.get("prompt_logprobs") or 0))
    wanted = params.get("prompt_logprobs")
    if type(wanted) is bool:
        params["prompt_logprobs"] = 0 if wanted else None
    if params.get("max_tokens") != 0:
        return
    if params.get("prompt_logprobs") is None:
        text = f"max_tokens must be {NUMBERS['max_tokens'].allowed} (0 with prompt_logprobs), not 0"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    if params.get("n", 1) > 1:
        raise RowError(ErrorCode.INVALID_PARAM, "n: nothing is generated with max_tokens 0")


def _check_min_tokens(params: dict[str, Any]) -> None:
    low, high = params.get("min_tokens", 0), params.get("max_tokens", INT32_MAX)
    if low > high:
        text = f"min_tokens {low} is above max_tokens {high}"
        raise RowError(ErrorCode.INVALID_PARAM, text)
