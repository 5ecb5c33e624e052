"""A model's own KV cache, by the name that its forward has for it.

transformers 5.24 renamed the argument, and the output's field, from `past_key_values` to `cache`.
"""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["CACHE_NAMES", "cache_name", "returned_cache"]

CACHE_NAMES = ("past_key_values", "cache")
"""A forward with both has kept the old meaning: there, `cache` is something else."""


def cache_name(module: Any) -> str:
    """The argument in which `module.forward` takes its own cache.

    Raises TypeError for a forward that takes none.
    """
    parameters = inspect.signature(module.forward).parameters
    for name in CACHE_NAMES:
        if name in parameters:
            return name
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return CACHE_NAMES[0]  # handed on to a forward that is not seen here
    raise TypeError(f"forward takes no cache: neither of {', '.join(CACHE_NAMES)}")


def returned_cache(output: Any, name: str) -> Any:
    """The cache that a forward gave back: under `name`, else under the other one, else None."""
    for field in (name, *CACHE_NAMES):
        if field in output.keys():  # noqa: SIM118 - `in output` renames and warns, 5.24 on
            return output[field]
    return None
