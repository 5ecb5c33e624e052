"""Counters of one engine, and those of several as one engine's. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

__all__ = ["EngineStats", "add_counters", "total_of"]


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine was made. Times in seconds, memory in bytes."""

    num_steps: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    folded_rows: int = 0
    """Requests that took the answer of an equal one."""
    shared_read_tokens: int = 0
    """Reads of keys that decoding rows were spared, as one pass read the keys for several rows."""
    preemptions: int = 0
    oom_events: int = 0
    num_running: int = 0
    num_waiting: int = 0
    step_seconds: float = 0.0
    device_seconds: float = 0.0
    """The part of `step_seconds` spent waiting for the device, or computing on the CPU."""
    prefill_share: float = 0.0
    """The share of time spent on prompt tokens: a step's time is divided by its tokens."""
    peak_memory_bytes: int = 0
    device: str = ""
    """Where it runs, in words: `cpu`, `cuda:0 (NVIDIA H100 80GB HBM3)`; empty: not known."""


_SECONDS = {"step_seconds", "device_seconds"}  # processes work at the same time: the longest
_NOW = {"num_running", "num_waiting", "peak_memory_bytes"}
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
