"""Which slot held which sequence when: as it was, and as batches of the same rows would have been.

Static batching takes as many rows as there are slots, in the input's order, and waits for the
longest of them. Each row is given the time that it took here; where a step gets shorter with fewer
rows, as on a CPU, a draining batch would be quicker than that.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchgen.report.page.clock import TimeLine
from batchgen.report.page.table import Floats

__all__ = ["Bar", "Slots", "bars_of", "slots_of"]

MOST_BARS, MOST_SLOTS = 1500, 48
_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class Bar:
    """One sequence: its slot, when it began, had its first token and ended."""

    slot: int
    begin: float
    first: float
    end: float


@dataclass(frozen=True, slots=True)
class Slots:
    """`bars` and `static_bars` are of the first sequences and slots; the seconds are of all."""

    num_slots: int
    num_sequences: int
    bars: list[Bar]
    static_bars: list[Bar]
    seconds: float
    static_seconds: float


def slots_of(line: TimeLine) -> Slots:
    """Sequences get the lowest free slot as they begin."""
    bars, num_slots = bars_of(line.began, line.reading, line.ended)
    static, seconds = _static(line, num_slots)
    return Slots(num_slots, len(line.began), bars, static, line.seconds, seconds)


def bars_of(
    began: Floats, reading: npt.NDArray[np.floating[Any]], ended: Floats
) -> tuple[list[Bar], int]:
    """The first sequences' bars, and how many slots all took; moments, and the seconds until the
    first token, are [num_sequences]."""
    order = np.argsort(began, kind="stable")
    bars: list[Bar] = []
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    num_slots = 0
    for begin, seconds, end in _each(order, began, reading, ended):
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            slot = heapq.heappop(free)
        else:
            slot, num_slots = num_slots, num_slots + 1
        heapq.heappush(busy, (end, slot))
        if len(bars) < MOST_BARS and slot < MOST_SLOTS:
            bars.append(Bar(slot, begin, begin + seconds, end))
    return bars, num_slots


def _each(
    order: npt.NDArray[np.int64], *moments: npt.NDArray[np.floating[Any]]
) -> Iterator[tuple[float, ...]]:
    """Each sequence's, in that order; as numbers of Python they take four times the memory."""
    for start in range(0, len(order), _AT_ONCE):
        places = order[start : start + _AT_ONCE]
        yield from zip(*(one[places].tolist() for one in moments), strict=True)


def _static(line: TimeLine, num_slots: int) -> tuple[list[Bar], float]:
    if not num_slots:
        return [], 0.0
    bars: list[Bar] = []
    now = 0.0
    for batch in line.parts(num_slots):
        taken = line.ended[batch] - line.began[batch]
        if len(bars) < MOST_BARS:
            for slot, (wait, long) in enumerate(zip(line.reading[batch], taken, strict=True)):
                if slot < MOST_SLOTS:
                    bars.append(Bar(slot, now, now + float(wait), now + float(long)))
        now += float(taken.max())
    return bars[:MOST_BARS], now
