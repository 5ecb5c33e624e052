"""What bounded a run, in one word, and the clock that tells."""

from __future__ import annotations

import time

from batchgen.engine.stats import EngineStats

__all__ = ["StepClock", "bound_by"]

_HOST_BOUND = 0.1
"""With a smaller share of the step time on the device, the host is what bounds the run."""


class StepClock:
    """Adds to `stats` where the time of steps went."""

    def __init__(self, stats: EngineStats) -> None:
        self._stats = stats
        self._last = time.monotonic()
        self._prompt_seconds = 0.0
        self._seconds = 0.0

    def delivered(self, now: float, num_tokens: int, num_decoded: int) -> None:
        """A step came back at `now`: `num_tokens` were computed, `num_decoded` rows sampled one."""
        seconds, self._last = now - self._last, now
        self._seconds += seconds
        self._prompt_seconds += seconds * (1 - num_decoded / max(1, num_tokens))
        self._stats.prefill_share = self._prompt_seconds / max(self._seconds, 1e-9)

    def on_device(self, started: float) -> None:
        """The host waited for the device, or computed, since then."""
        self._stats.device_seconds += time.monotonic() - started


def bound_by(stats: EngineStats, seconds: float) -> str:
    """`input`, `host`, `prefill` or `decode`: what most of the engine's `seconds` went to. Empty
    where it made no step."""
    if not stats.num_steps:
        return ""
    if stats.step_seconds < seconds / 2:
        return "input"
    if stats.device_seconds < stats.step_seconds * _HOST_BOUND:
        return "host"
    return "prefill" if stats.prefill_share > 0.5 else "decode"
