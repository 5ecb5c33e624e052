"""How a value from a row stands in a message: as JSON, short, ASCII."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["shown"]

_MOST_CHARACTERS = 80


def shown(value: Any) -> str:
    """At most some 80 characters, whatever the value; never a surrogate or control character."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "..."
