"""Text that stands where a setting is read: a cell of a CSV file, a value in a folder's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from batchgen.job.decisions.settings import DECISION_NAMES
from batchgen.job.fields.row_columns import PARAMS, SYSTEM
from batchgen.job.fields.structured import STRUCTURED_NAMES
from batchgen.job.fields.token_rules import TOKEN_RULE_NAMES
from batchgen.job.model.adapter_choice import ADAPTER

__all__ = ["cells_of"]

_TEXTS = frozenset(
    (*STRUCTURED_NAMES, *TOKEN_RULE_NAMES, *DECISION_NAMES, *PARAMS, ADAPTER, SYSTEM, "stop")
)
"""Parameters whose value is text, also where it looks like a number."""
_BOOLEANS = {"true": True, "false": False}
_NUMBER = re.compile(r"[+-]?(\d+|(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)", re.ASCII)
_NOT_SET = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
     "N/A", "NA", "NULL", "NaN", "n/a", "nan", "null")
)  # fmt: skip
"""How pandas, R and databases write that there is no number: empty, NA, NULL, nan, ..."""


def cells_of(settings: Iterable[str]) -> dict[str, Callable[[Any], Any]]:
    """What makes a value of a setting's text. Each is read alone, so that a wrong one is its own
    row's error; an empty one is not set."""
    return {name: _text if name in _TEXTS else _setting for name in settings}


def _text(value: Any) -> Any:
    return value or None


def _setting(value: Any) -> Any:
    """A number or a boolean where it is one; else the text, which its reader then refuses."""
    if value is None or value in _NOT_SET:
        return None
    plain = str(value).strip()
    if _NUMBER.fullmatch(plain) is None:
        return _BOOLEANS.get(plain.lower(), value)
    with suppress(ValueError):  # Python reads no integer of thousands of digits
        return int(plain) if plain.lstrip("+-").isdigit() else float(plain)
    return value
