"""Counters of several engines as one engine's. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from batchgen.engine.request import EngineStats

__all__ = ["add_counters", "total_of"]

_SECONDS = {"step_seconds", "device_seconds"}  # processes work at the same time: the longest
_NOW = {"num_running", "num_waiting", "token_budget", "peak_memory_bytes"}
_SHARES = {"prefill_share"}
_COUNTERS = {f.name for f in fields(EngineStats)} - _SECONDS - _NOW - _SHARES - {"device"}


def total_of(everyone: Sequence[EngineStats]) -> EngineStats:
    """All of them together: sums, the longest time, the mean of shares."""
    total = EngineStats(device=", ".join(stats.device for stats in everyone if stats.device))
    for name in _COUNTERS | _NOW:
        setattr(total, name, sum(getattr(stats, name) for stats in everyone))
    for name in _SECONDS:
        setattr(total, name, max(getattr(stats, name) for stats in everyone))
    working = [stats for stats in everyone if stats.num_steps]
    for name in _SHARES:
        shares = [getattr(stats, name) for stats in working]
        setattr(total, name, sum(shares) / max(1, len(shares)))
    return total


def add_counters(total: EngineStats, stats: EngineStats) -> None:
    """Keep what an engine that is gone had counted."""
    for name in _COUNTERS:
        setattr(total, name, getattr(total, name) + getattr(stats, name))
