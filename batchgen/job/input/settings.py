"""Names that vLLM, SGLang, OpenAI or transformers read as a setting, and that are not parameters
of a row here: what each may say without changing a completion.

One table. A name in it is never an extra column: its neutral values are accepted, all others make
the row `unsupported_setting`. Who serves a name takes it out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any

from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown

__all__ = [
    "ONE_CALL",
    "SETTING_NAMES",
    "TEMPLATE_NAMES",
    "TEXT_SETTINGS",
    "TRUNCATE",
    "check_setting",
    "nearest",
    "read_template_kwargs",
    "read_texts",
    "read_truncation",
    "with_default_kwargs",
]

_ANY: Callable[[Any], bool] = lambda value: True  # noqa: E731


def _off(*values: Any) -> Callable[[Any], bool]:
    """Neutral are these, in type and value, and what is empty."""
    kept = (*values, "", [], {})
    return lambda value: any(type(value) is type(one) and value == one for one in kept)


_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    # OpenAI: about the service, not about the text
    "user": _ANY,
    "metadata": _ANY,
    "store": _ANY,
    "service_tier": _ANY,
    "stream_options": _ANY,
    "prompt_cache_key": _ANY,
    "prompt_cache_retention": _ANY,
    "safety_identifier": _ANY,
    "priority": _ANY,
    "request_id": _ANY,
    "return_tokens_as_token_ids": _off(False),
    "return_token_ids": _off(False),
    "cache_salt": _ANY,
    "background": _ANY,
    "background_options": _ANY,
    "moderation": _ANY,
    "prompt_cache_options": _ANY,
    "include": _ANY,
    "prediction": _ANY,
    "stream": _off(False),
    # OpenAI: settings of the text
    "audio": _off(),
    "context_management": _off(),
    "conversation": _off(),
    "previous_response_id": _off(),
    "best_of": _off(1),
    "function_call": _off("none", "auto"),
    "functions": _off(),
    "max_tool_calls": _ANY,
    "modalities": _off(["text"]),
    "parallel_tool_calls": _off(True),
    "suffix": _off(),
    "tool_choice": lambda choice: True,  # read with the tools: `parsing.tool_choice`
    "truncation": _off("disabled"),
    "verbosity": _off("medium"),
    "web_search_options": _off(),
    # vLLM
    "add_special_tokens": _off(),
    "allowed_token_ids": _off(),
    "bad_words": _off(),
    "chat_template": _off(),
    "detokenize": _off(True),
    "generation_config": _off(),
    "guided_choice": _off(),
    "guided_decoding": _off(),
    "guided_decoding_backend": _ANY,
    "guided_grammar": _off(),
    "guided_json": _off(),
    "guided_regex": _off(),
    "include_reasoning": _off(True),
    "include_stop_str_in_output": _off(False),
    "kv_transfer_params": _off(),
    "length_penalty": _off(1, 1.0, 0, 0.0),
    "logit_bias": _off(),
    "logits_processors": _off(),
    "lora_request": _off(),
    "media_io_kwargs": _off(),
    "prompt_embeds": _off(),
    "mm_processor_kwargs": _off(),
    "repetition_detection": _off(),
    "response_format": _off({"type": "text"}),
    "structured_outputs": _off(),
    "use_beam_search": _off(False),
    "vllm_xargs": _off(),
    # SGLang
    "custom_logit_processor": _off(),
    "custom_params": _off(),
    "session_params": _off(),
    "ebnf": _off(),
    "json_schema": _off(),
    "lora_path": _off(),
    "no_stop_trim": _off(False),
    "regex": _off(),
    "return_logprob": _off(False),
    "stop_regex": _off(),
    "structural_tag": _off(),
    "top_logprobs_num": _off(0),
    # transformers
    "assistant_early_exit": _off(),
    "bad_words_ids": _off(),
    "begin_suppress_tokens": _off(),
    "constraints": _off(),
    "diversity_penalty": _off(0, 0.0),
    "dola_layers": _off(),
    "early_stopping": _ANY,  # of beams
    "eos_token_id": _off(),
    "do_sample": _off(),
    "encoder_no_repeat_ngram_size": _off(0),
    "encoder_repetition_penalty": _off(1, 1.0),
    "epsilon_cutoff": _off(0, 0.0),
    "eta_cutoff": _off(0, 0.0),
    "exponential_decay_length_penalty": _off(),
    "force_words_ids": _off(),
    "forced_bos_token_id": _off(),
    "forced_decoder_ids": _off(),
    "forced_eos_token_id": _off(),
    "guidance_scale": _off(1, 1.0),
    "max_length": _off(),
    "max_time": _off(),
    "min_length": _off(0),
    "no_repeat_ngram_size": _off(0),
    "num_beam_groups": _off(1),
    "num_beams": _off(1),
    "num_return_sequences": _off(1),
    "penalty_alpha": _off(0, 0.0),
    "sequence_bias": _off(),
    "stop_strings": _off(),
    "suppress_tokens": _off(),
    "token_healing": _off(False),
    "top_h": _off(),
    "typical_p": _off(1, 1.0),
    "watermarking_config": _off(),
}
SETTING_NAMES = frozenset(_NEUTRAL)
TEXT_SETTINGS = frozenset(name for name, neutral in _NEUTRAL.items() if neutral is not _ANY)
"""Those that change a completion: in a plain row they are never an extra column."""

TEMPLATE_NAMES = (
    "add_generation_prompt",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "enable_thinking",
    "reasoning_effort",
    "tools",
)
"""Settings that the chat template reads."""

_ELSEWHERE = {
    "extra_args": "params",
    "gen_kwargs": "params",
    "generation_kwargs": "params",
    "instructions": "system",
    "llm_kwargs": "params",
    "max_thinking_tokens": "thinking_token_budget",
    "maxtokens": "max_tokens",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
    "stop_words": "stop",
    "system_prompt": "system",
}
"""What other tools (Ollama, llama.cpp, Anthropic, lm-eval, TRL) call it, in small letters."""
_ALIKE = 0.85
"""Of a column's name and a parameter's: `temprature`, not `step`."""
_MAX_GUESSED = 40
"""Characters of a misspelt name: no parameter's is longer, and comparing costs their square."""

ONE_CALL = "parallel_tool_calls"
"""False: at most one call."""
TRUNCATE = "truncate_prompt_tokens"
"""vLLM's: a row's prompt is cut to its last tokens."""

_MAY_BE_TEXT = ("tools", "tool_choice", "documents", "chat_template_kwargs")
_ENDINGS = ("continue_final_message", "add_generation_prompt")
"""They exclude each other."""


def nearest(name: str, names: Collection[str], likeness: float | None = None) -> str | None:
    """Which of `names` is likely meant by a name that is none."""
    known = _ELSEWHERE.get(name.lower())
    if known is not None:
        return known
    near = get_close_matches(name[:_MAX_GUESSED], names, 1, likeness or _ALIKE)
    return near[0] if near else None


def check_setting(name: str, value: Any, given: Mapping[str, Any]) -> None:
    """RowError UNSUPPORTED_SETTING for a name of the table whose value would change the text of a
    row with these settings."""
    if value is None or _NEUTRAL[name](value):
        return
    if name == ONE_CALL and value is False and _is_held_to_calls(given):
        return
    if name == "best_of" and type(value) is int and value == given.get("n"):
        return  # all of them are given back
    text = (
        f"{name}: {shown(value)} is not served, and it would change the completion; if it is a "
        f"column of yours, keep it with --keep-columns {name}"
    )
    raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)


def _is_held_to_calls(given: Mapping[str, Any]) -> bool:
    """Whether how many calls it makes is known: it has no tools, or a choice of them that holds its
    answer to a schema."""
    return not given.get("tools") or given.get("tool_choice") not in (None, "", "auto")


def read_texts(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with lists and objects for the template that are JSON text, as tables have them."""
    return {
        name: _of_text(value) if name in _MAY_BE_TEXT else value for name, value in given.items()
    }


def _of_text(value: Any) -> Any:
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # whoever reads it says what it has to be


def read_template_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row's settings goes to its chat template. RowError INVALID_PARAM for a wrong type
    and for two wishes that exclude each other."""
    found = {k: given[k] for k in TEMPLATE_NAMES if given.get(k) is not None}
    kwargs = found.pop("chat_template_kwargs", {})
    _require(isinstance(kwargs, dict), "chat_template_kwargs", "an object", kwargs)
    for name in ("tools", "documents"):
        items = found.get(name, [])
        fits = isinstance(items, list) and all(isinstance(item, dict) for item in items)
        _require(fits, name, "a list of objects", items)
        if items == []:
            found.pop(name, None)
    for name in ("add_generation_prompt", "enable_thinking"):
        value = found.get(name, True)
        _require(type(value) is bool, name, "true or false", value)
    if given.get("tool_choice") == "none":
        found.pop("tools", None)
    merged = {**kwargs, **found}
    if all(merged.get(name) for name in _ENDINGS):
        text = f"{' and '.join(_ENDINGS)} cannot both be true"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    return merged


def read_truncation(given: Mapping[str, Any]) -> int | None:
    """How many last tokens of the prompt a row wants; -1: as many as fit. RowError INVALID_PARAM
    for another value."""
    value = given.get(TRUNCATE)
    if value is None:
        return None
    whole = type(value) is int or (type(value) is float and value.is_integer())
    _require(whole and (value == -1 or value >= 1), TRUNCATE, "-1 or an integer from 1", value)
    return int(value)


def with_default_kwargs(own: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """A chat's own settings of its template over `--chat-template-kwargs`; a default that excludes
    one of its own is left out."""
    merged = {**default, **own}
    for name, other in (_ENDINGS, _ENDINGS[::-1]):
        if own.get(name) and other not in own:
            merged.pop(other, None)
    return merged


def _require(fits: bool, name: str, what: str, value: Any) -> None:
    if not fits:
        raise RowError(ErrorCode.INVALID_PARAM, f"{name} must be {what}, not {shown(value)}")
