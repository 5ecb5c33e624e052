"""Every number of a report, out of an output's columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchgen.report.page.clock import Run, TimeLine, time_line
from batchgen.report.page.slots import Slots, slots_of
from batchgen.report.page.table import Floats, Ints, Table

__all__ = ["PARTS", "Failures", "Figures", "Histogram", "figures_of"]

PARTS = ("queue_s", "prefill_s", "decode_s", "latency_s")
_PERCENTILES = (50, 90, 99, 100)
_NUM_BINS, _LATENCY_BINS, _LENGTH_BINS = 120, 40, 32
_SAMPLES = 3
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts` between `edges`, [num_bins] and [num_bins + 1]."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Failures:
    """Of one kind: how many rows, and the first of them: id, index, message."""

    code: str
    rows: int
    samples: list[tuple[str, int, str]]


@dataclass(frozen=True, slots=True)
class Figures:
    """A report as data. Times in seconds on the time line (`clock.py`)."""

    name: str
    totals: dict[str, int]
    seconds: float
    runs: list[Run]
    tokens_per_s: list[float]
    live: list[int]
    percentiles: dict[str, dict[str, float]]
    latencies: dict[str, Histogram]
    lengths: list[tuple[int, int, int]]
    """(bin of prompt tokens, bin of completion tokens, rows): bins of `length_edges`."""
    length_edges: list[float]
    failures: list[Failures]
    slots: Slots
    provenance: dict[str, Any]


def figures_of(table: Table) -> Figures:
    """Of a finished output."""
    percentiles, latencies = {}, {}
    for name in PARTS:
        values = table.floats(name)
        values = values[~np.isnan(values)]
        latencies[name] = _histogram(values)
        percentiles[name] = _percentiles(values)  # which changes their order
    edges, cells = _lengths(table)
    totals = _totals(table)
    line = time_line(table)
    return Figures(
        name=str(table.path),
        totals=totals,
        seconds=line.seconds,
        runs=list(line.runs),
        tokens_per_s=_tokens_per_s(line),
        live=_live(line),
        percentiles=percentiles,
        latencies=latencies,
        lengths=cells,
        length_edges=edges,
        failures=_failures(table),
        slots=slots_of(line),
        provenance=table.provenance,
    )


def _totals(table: Table) -> dict[str, int]:
    found = {name: int(table.has("status", name).sum()) for name in ("ok", "error")}
    return {
        "rows": len(np.unique(table.ints("index"))),
        "completions": found["ok"],
        "failed": found["error"],
        "skipped": table.num_rows - found["ok"] - found["error"],
        "cut by max_tokens": int(table.has("finish_reason", "length").sum()),
        "prompt tokens": int(table.ints("prompt_tokens")[table.ints("sample") == 0].sum()),
        "completion tokens": int(table.ints("completion_tokens").sum()),
        "cached tokens": int(table.ints("cached_tokens").sum()),
        "preemptions": int(table.ints("preemptions").sum()),
        "begun more than once": int((table.ints("attempt") > 1).sum()),
    }


def _tokens_per_s(line: TimeLine) -> list[float]:
    """Completion tokens in each of the time line's bins, a second: a row's are spread evenly from
    its first token to its end."""
    if not line.seconds:
        return []
    edges = np.linspace(0.0, line.seconds, _NUM_BINS + 1)
    done = np.zeros(len(edges))
    for part in line.parts():
        first_token = line.began[part] + line.reading[part]
        length = np.maximum(line.ended[part] - first_token, 1e-9)
        for number, edge in enumerate(edges):
            share = np.clip((edge - first_token) / length, 0.0, 1.0)
            done[number] += float((share * line.tokens[part]).sum())
    done[-1] = float(line.tokens.sum())  # what ends with the last edge is inside
    return [float(one) for one in np.diff(done) / np.diff(edges)]


def _live(line: TimeLine) -> list[int]:
    """Sequences in the engine at the middle of each bin."""
    if not line.seconds:
        return []
    edges = np.linspace(0.0, line.seconds, _NUM_BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    begun = np.searchsorted(np.sort(line.began), middles, side="right")
    ended = np.searchsorted(np.sort(line.ended), middles, side="right")
    return [int(one) for one in begun - ended]


def _percentiles(values: Floats) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.percentile(values, _PERCENTILES, overwrite_input=True)
    return {f"p{p}": float(value) for p, value in zip(_PERCENTILES, found, strict=True)}


def _histogram(values: Floats) -> Histogram:
    """In bins that grow; the first one takes what is shorter than a millisecond."""
    high = max(float(values.max(initial=0.0)), 0.01)
    edges = np.concatenate([[0.0], np.geomspace(0.001, high * 1.0001, _LATENCY_BINS)])
    counts, _ = np.histogram(values, bins=edges)
    return Histogram([float(one) for one in edges], [int(one) for one in counts])


def _lengths(table: Table) -> tuple[list[float], list[tuple[int, int, int]]]:
    ok = table.has("status", "ok")
    names = "prompt_tokens", "completion_tokens"
    high = max(2, *(int(table.ints(name)[ok].max(initial=0)) for name in names))
    edges = np.concatenate([[0.0], np.geomspace(1, high + 1, _LENGTH_BINS)])
    x, y = (_bins_of(table.ints(name)[ok], edges) for name in names)
    counts = np.bincount(x * np.uint16(_LENGTH_BINS) + y, minlength=_LENGTH_BINS**2)
    cells = [(*divmod(int(cell), _LENGTH_BINS), int(counts[cell])) for cell in counts.nonzero()[0]]
    return [float(one) for one in edges], cells


def _bins_of(values: Ints, edges: Floats) -> npt.NDArray[np.uint16]:
    """The bin between `edges` of each value, few bytes each: `np.histogram2d` takes 58 a row."""
    return np.searchsorted(edges, values, side="right").astype(np.uint16) - np.uint16(1)


def _failures(table: Table) -> list[Failures]:
    found = []
    for code in table.texts("error_code")[0]:
        places = np.flatnonzero(table.has("error_code", code))
        if not len(places):
            continue
        samples = [
            (one["id"], one["index"], (one["error_message"] or "")[:_LONGEST_MESSAGE])
            for one in table.rows(places[:_SAMPLES])
        ]
        found.append(Failures(code, len(places), samples))
    return sorted(found, key=lambda one: (-one.rows, one.code))
