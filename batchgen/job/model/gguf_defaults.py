"""Sampling defaults that a GGUF file brings (`general.sampling.*`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError

__all__ = ["gguf_sampling", "ignored_gguf_sampling"]

_PREFIX = "general.sampling."
_SERVED = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "xtc_probability": (0, 0.0),
    "mirostat": (0,),
    "penalty_last_n": (-1,),
}
"""Values that change nothing. A penalty over the last tokens alone is not served."""
_WITH = {"xtc_threshold": "xtc_probability", "mirostat_tau": "mirostat", "mirostat_eta": "mirostat"}
_WITH |= {"penalty_last_n": "penalty_repeat"}
"""Settings of another one, without which they mean nothing."""


def gguf_sampling(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """SamplingParams' names of what `general.sampling.*` says, as of a generation_config: greedy
    where it names no temperature. Raises ModelRefusedError for a value that is no number."""
    found: dict[str, Any] = {"temperature": 0.0}
    for name, ours in _SERVED.items():
        value = metadata.get(_PREFIX + name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelRefusedError(
                f"{path}: its metadata key {_PREFIX}{name} is no number",
                "Convert the file again, or name the model's transformers folder instead.",
            )
        found[ours] = value
    return found


def ignored_gguf_sampling(metadata: dict[str, Any]) -> tuple[str, ...]:
    """Whole names of the settings that llama.cpp would apply and batchgen does not have."""
    given = {
        name.removeprefix(_PREFIX): value
        for name, value in metadata.items()
        if name.startswith(_PREFIX)
    }
    changing = {k for k, v in given.items() if v not in _NEUTRAL.get(k, ())}
    return tuple(
        _PREFIX + name
        for name in given
        if name in changing and name not in _SERVED and _WITH.get(name, name) in changing
    )
