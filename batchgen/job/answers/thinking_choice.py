"""How much a row is to think, as an object: OpenAI's and OpenRouter's `reasoning`, Anthropic's and
GLM's `thinking`. Each key becomes the setting that says the same, or is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown

__all__ = ["THINKING_NAMES", "spread_thinking", "thinking_wishes"]

THINKING_NAMES = ("reasoning", "thinking", "think")
"""Settings where they are objects or booleans; texts under these names are columns."""
_WISHES = frozenset(THINKING_NAMES)
_EFFORT, _ENABLE, _BUDGET = "reasoning_effort", "enable_thinking", "thinking_token_budget"
_SETTINGS = {
    "reasoning": {"effort": _EFFORT, "max_tokens": _BUDGET, "enabled": _ENABLE},
    "thinking": {"type": _ENABLE, "budget_tokens": _BUDGET},
}
_NEUTRAL: dict[str, Mapping[str, Collection[Any] | None]] = {
    "reasoning": {
        "context": ("auto",),
        "exclude": (False,),
        "generate_summary": None,  # the whole thinking is given
        "mode": ("standard",),
        "summary": None,
    },
    "thinking": {},
}
"""Values that change nothing; None: all."""
_SWITCH = {"enabled": True, "disabled": False}


def thinking_wishes(row: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `THINKING_NAMES` that are settings in a row, not columns."""
    if _WISHES.isdisjoint(row):
        return {}
    found = {name: row.get(name) for name in THINKING_NAMES}
    return {name: value for name, value in found.items() if isinstance(value, dict | bool)}


def spread_thinking(given: dict[str, Any]) -> dict[str, Any]:
    """The same settings with each such object as what it says.

    RowError: UNSUPPORTED_SETTING for a key or value that is not served, INVALID_PARAM where it
    contradicts a setting beside it.
    """
    wishes = thinking_wishes(given)
    if not wishes:
        return given
    spread = {name: value for name, value in given.items() if name not in wishes}
    for name, value in wishes.items():
        for key, inner in _keys(name, value).items():
            setting = _setting(name, key, inner)
            if setting is not None:
                _add(spread, name, key, *setting)
    return spread


def _keys(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and name in _SETTINGS:
        return {key: inner for key, inner in value.items() if inner is not None}
    text = (
        f"{name}: {shown(value)} is not served: give chat_template_kwargs under the name that the "
        f"chat template reads, or keep a column of yours with --keep-columns {name}"
    )
    raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)


def _setting(name: str, key: str, value: Any) -> tuple[str, Any] | None:
    """The setting that a key is; None for one that changes nothing."""
    ours = _SETTINGS[name].get(key)
    if ours is not None and key != "type":
        return ours, value
    if ours is not None and isinstance(value, str) and value in _SWITCH:
        return ours, _SWITCH[value]
    neutral = _NEUTRAL[name].get(key, ())
    if neutral is None or value in neutral:
        return None
    text = f"{name}.{key}: {shown(value)} is not served, and it would change the completion"
    raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)


def _add(spread: dict[str, Any], name: str, key: str, setting: str, value: Any) -> None:
    if spread.get(setting) not in (None, value):
        text = f"{name}.{key} {shown(value)} contradicts {setting} {shown(spread[setting])}"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    spread[setting] = value
