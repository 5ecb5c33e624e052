"""Settings of a row that are no sampling parameters: what its template reads, how its prompt is
cut, and those of others' names that are not served (`setting_names`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.errors import ErrorCode, RowError
from batchgen.job.fields.setting_advice import SETTING_ADVICE
from batchgen.job.fields.setting_names import is_neutral
from batchgen.job.quoting import shown
from batchgen.job.templates.chat_shape import ENDINGS

__all__ = [
    "TEMPLATE_NAMES",
    "TRUNCATE",
    "check_setting",
    "joined",
    "json_or_text",
    "read_template_kwargs",
    "read_texts",
    "read_truncation",
    "settled_kwargs",
    "with_default_kwargs",
    "without_own_specials",
]

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
_OF_TEMPLATES = frozenset(TEMPLATE_NAMES)

_SPECIALS = "add_special_tokens"
_ONE_CALL = "parallel_tool_calls"
"""False: at most one call."""
TRUNCATE = "truncate_prompt_tokens"
"""vLLM's: a row's prompt is cut to its last tokens."""

_MAY_BE_TEXT = frozenset(
    (
        *("tools", "tool_choice", "documents", "chat_template_kwargs"),
        *("logit_bias", "reasoning", "thinking"),
    )
)
_BEGUN = ("prefix", "partial")
"""True in a last turn that is to be continued: Mistral's and DeepSeek's name, Moonshot's and
Qwen's."""
_NO_VARIABLES = ("chat_template", "sanitize_control_tokens", "tokenizer_kwargs")
"""`apply_chat_template` takes them beside what its template reads."""


def check_setting(name: str, value: Any, given: Mapping[str, Any]) -> None:
    """RowError UNSUPPORTED_SETTING for a name of the table whose value would change the text of a
    row with these settings."""
    if value is None or is_neutral(name, value):
        return
    if name == _ONE_CALL and value is False and _is_held_to_calls(given):
        return
    if name == "best_of" and type(value) is int and value == given.get("n"):
        return  # all of them are given back
    advice = SETTING_ADVICE.get(name)
    more = ", and it would change the completion" if advice is None else f"; {advice}"
    text = f"{name}: {shown(value)} is not served{more}"
    raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)


def without_own_specials(given: dict[str, Any], *, is_chat: bool | None) -> dict[str, Any]:
    """`given` without vLLM's `add_special_tokens` where it says what is done anyway: a tokenizer
    adds its own to plain text, a template to a chat, nobody to token ids (`is_chat` None)."""
    done = given.get(_SPECIALS)
    fits = type(done) is bool and (is_chat is None or done is not is_chat)
    return {k: v for k, v in given.items() if k != _SPECIALS} if fits else given


def _is_held_to_calls(given: Mapping[str, Any]) -> bool:
    """Whether how many calls it makes is known: it has no tools, or a choice of them that holds its
    answer to a schema."""
    return not given.get("tools") or given.get("tool_choice") not in (None, "", "auto")


def joined(own: dict[str, Any], holder: str, inner: Any) -> dict[str, Any]:
    """`own` with the settings that one column holds. RowError INVALID_PARAM where that is no
    object, and for one set twice to different values."""
    if isinstance(inner, str):
        inner = _json_object(holder, inner)
    if inner is None:
        return own
    if not isinstance(inner, dict):
        raise RowError(ErrorCode.INVALID_PARAM, f"{holder} must be an object, not {shown(inner)}")
    for name in own.keys() & inner.keys():
        if inner[name] is not None and inner[name] != own[name]:
            text = f"{name} stands in the row and in {holder} with different values"
            raise RowError(ErrorCode.INVALID_PARAM, text)
    return {**own, **{k: v for k, v in inner.items() if v is not None or k not in own}}


def read_texts(given: dict[str, Any]) -> dict[str, Any]:
    """The same, with lists and objects for the template that are JSON text, as tables have them,
    and tools and their choice as OpenAI writes them."""
    if _MAY_BE_TEXT.isdisjoint(given):
        return given
    read = {
        name: json_or_text(value) if name in _MAY_BE_TEXT else value
        for name, value in given.items()
    }
    if isinstance(read.get("tools"), list):
        read["tools"] = [_function_tool(tool) for tool in read["tools"]]
    choice = read.get("tool_choice")
    return {**read, **_tool_choice(choice)} if isinstance(choice, dict) else read


def _function_tool(tool: Any) -> Any:
    """Anthropic writes a function's fields on top, and its parameters as `input_schema`."""
    if not isinstance(tool, dict) or "input_schema" not in tool or "function" in tool:
        return tool
    function = {name: tool[name] for name in ("name", "description") if tool.get(name) is not None}
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}}


def _tool_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic writes an object for every choice, `tool` for a function, and in it that there may
    be but one call."""
    kind = choice.get("type")
    read: dict[str, Any] = {}
    if kind in ("auto", "any", "none"):
        read["tool_choice"] = kind
    if kind == "tool":
        read["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    return {**read, _ONE_CALL: False} if choice.get("disable_parallel_tool_use") is True else read


def json_or_text(value: Any) -> Any:
    """What a text that is a JSON list or object holds; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # whoever reads it says what it has to be


def read_template_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row's settings goes to its chat template. RowError INVALID_PARAM for a wrong type
    and for two wishes that exclude each other."""
    if _OF_TEMPLATES.isdisjoint(given):
        return {}
    found = {k: given[k] for k in TEMPLATE_NAMES if given.get(k) is not None}
    kwargs = found.pop("chat_template_kwargs", {})
    _require(isinstance(kwargs, dict), "chat_template_kwargs", "an object", kwargs)
    if "messages" in kwargs:
        text = "chat_template_kwargs holds messages: a chat is what the row itself has"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    for name in _NO_VARIABLES:
        check_setting(name, kwargs.get(name), given)
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
    if all(merged.get(name) for name in ENDINGS):
        text = f"{' and '.join(ENDINGS)} cannot both be true"
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


def settled_kwargs(
    messages: Sequence[Mapping[str, Any]], own: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any]:
    """What a chat's template gets beside its messages: `own` settings, what its last turn says of
    itself, and of the default ones what neither excludes."""
    last = messages[-1]
    begun = last.get("role") == "assistant" and any(last.get(name) is True for name in _BEGUN)
    if begun and not any(name in own for name in ENDINGS):
        own = {**own, "continue_final_message": True}
    return with_default_kwargs(own, default)


def with_default_kwargs(own: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """A chat's own settings of its template over `--chat-template-kwargs`; a default that excludes
    one of its own is left out."""
    merged = {**default, **own}
    for name, other in (ENDINGS, ENDINGS[::-1]):
        if own.get(name) and other not in own:
            merged.pop(other, None)
    return merged


def _require(fits: bool, name: str, what: str, value: Any) -> None:
    if not fits:
        raise RowError(ErrorCode.INVALID_PARAM, f"{name} must be {what}, not {shown(value)}")


def _json_object(holder: str, text: str) -> Any:
    """Written as JSON text, as Parquet files often have them."""
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        raise RowError(ErrorCode.INVALID_PARAM, f"{holder} is no JSON object") from None
