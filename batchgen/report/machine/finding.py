"""One thing that was looked at, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "State"]


class State(StrEnum):
    """How it is. Only `bad` stops runs."""

    OK = "ok"
    ABSENT = "absent"
    """Optional, and not here."""
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix`: a command, or what to do; None where nothing is wrong."""

    name: str
    state: State
    text: str
    fix: str | None = None
