"""When a run must be over: `--time-limit`, or the end that Slurm gave the job. Standard library.

A run leaves by itself a margin before that moment, so that saving and leaving are over in time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from batchgen.errors import UsageError

__all__ = ["Deadline", "next_deadline", "parse_duration"]

SLURM_END = "SLURM_JOB_END_TIME"

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNIT_FORM = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_CLOCK_FORM = re.compile(r"(?:(\d+)-)?(\d+):(\d{1,2})(?::(\d{1,2}))?")
_MARGIN_SHARE = 0.1
_LEAST_MARGIN_S = 2.0
_MOST_MARGIN_S = 60.0


class Deadline(NamedTuple):
    """Moments on `time.monotonic`'s clock: be gone by `at`, begin to leave at `leave_at`."""

    at: float
    leave_at: float
    name: str

    @property
    def clock(self) -> str:
        """The wall-clock time of `at`, for messages."""
        return time.strftime("%H:%M:%S", time.localtime(time.time() + self.at - time.monotonic()))


def parse_duration(text: str) -> float:
    """Seconds in `90`, `60s`, `10m`, `1h30m`, `2h`, `MM:SS`, `HH:MM:SS` or `D-HH:MM[:SS]`.

    Raises UsageError.
    """
    text = text.strip().lower()
    seconds = -1.0
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif _UNIT_FORM.fullmatch(text):
        parts = re.findall(r"([\d.]+)([smhd])", text)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    elif match := _CLOCK_FORM.fullmatch(text):
        seconds = _clock_seconds(match)
    if seconds <= 0:
        raise UsageError(
            f"--time-limit {text!r} is no duration",
            "write seconds, 60s, 10m, 2h, HH:MM:SS or D-HH:MM:SS",
        )
    return seconds


def next_deadline(limit: str | None, environ: Mapping[str, str], started: float) -> Deadline | None:
    """The earlier of the limit, counted from `started` (monotonic), and Slurm's end of the job.

    An end that is past or no number is ignored: it is another job's. Raises UsageError.
    """
    found = []
    if limit is not None:
        found.append(_deadline(started, started + parse_duration(limit), f"--time-limit {limit}"))
    end = environ.get(SLURM_END, "")
    if end.isdigit() and (left := int(end) - time.time()) > 0:
        now = time.monotonic()
        found.append(_deadline(now, now + left, SLURM_END))
    return min(found, key=lambda deadline: deadline.leave_at, default=None)


def _deadline(start: float, at: float, name: str) -> Deadline:
    length = at - start
    margin = min(_MOST_MARGIN_S, max(_LEAST_MARGIN_S, _MARGIN_SHARE * length), length / 2)
    return Deadline(at, at - margin, name)


def _clock_seconds(match: re.Match[str]) -> float:
    days, first, second, third = match.groups()
    if third is None and days is None:  # MM:SS, as Slurm reads it
        return 60.0 * int(first) + int(second)
    hours = 24.0 * int(days or 0) + int(first)
    return 3600.0 * hours + 60.0 * int(second) + int(third or 0)
