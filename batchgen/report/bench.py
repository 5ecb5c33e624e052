"""Measure an engine on a seeded workload: token ids in, token ids out, no files and no text."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from batchgen.engine.request import Completion, Engine, Request, SamplingParams
from batchgen.report.variants import RowSampling, own
from batchgen.report.workloads import WorkItem

__all__ = ["BenchRun", "best_run", "format_table", "run_work"]


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One pass over a workload. Rates are tokens per second of its wall time."""

    wall_s: float
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    total_tokens_per_s: float
    num_steps: int
    mean_live_seqs: float
    """Sequences between their admission and their end, over time."""
    preemptions: int
    cached_tokens: int
    """Prompt tokens that were found in the cache."""
    folded_rows: int
    shared_read_tokens: int
    """Keys that decoding rows did not read themselves: one pass read them for several."""
    first_token_s: float
    """From the first request's arrival to the first token of any."""


def run_work(
    engine: Engine, work: Sequence[WorkItem], sampling: RowSampling = own
) -> tuple[BenchRun, list[Completion]]:
    """Run `work` to its fixed lengths and time it; completions in input order."""
    before = replace(engine.stats())
    start = time.perf_counter()
    arrival = time.monotonic()
    for index, item in enumerate(work):
        chosen = {"temperature": item.temperature, **sampling(index, item)}
        params = SamplingParams(max_tokens=item.max_tokens, ignore_eos=True, **chosen)
        engine.add(Request(index, item.prompt_token_ids, params, draw_key=index))
    completions: list[Completion] = []
    while engine.num_unfinished:
        completions.extend(engine.step())
    wall = time.perf_counter() - start
    completions.sort(key=lambda completion: completion.request_id)
    stats = engine.stats()
    prompt = sum(len(item.prompt_token_ids) for item in work)
    output = sum(len(completion.token_ids) for completion in completions)
    run = BenchRun(
        wall_s=round(wall, 4),
        prompt_tokens=prompt,
        output_tokens=output,
        output_tokens_per_s=round(output / wall, 1),
        total_tokens_per_s=round((prompt + output) / wall, 1),
        num_steps=stats.num_steps - before.num_steps,
        mean_live_seqs=round(_seconds_live(completions) / wall, 1),
        preemptions=stats.preemptions - before.preemptions,
        cached_tokens=stats.cached_tokens - before.cached_tokens,
        folded_rows=stats.folded_rows - before.folded_rows,
        shared_read_tokens=stats.shared_read_tokens - before.shared_read_tokens,
        first_token_s=round(min(c.timings.first_token for c in completions) - arrival, 4),
    )
    return run, completions


def _seconds_live(completions: Sequence[Completion]) -> float:
    return sum(c.timings.finished - c.timings.first_scheduled for c in completions)


def best_run(runs: Sequence[BenchRun]) -> dict[str, Any]:
    """The fastest run, with the median and the spread of all beside it."""
    rates = [run.output_tokens_per_s for run in runs]
    best = max(runs, key=lambda run: run.output_tokens_per_s)
    return {
        **asdict(best),
        "runs": len(runs),
        "median_output_tokens_per_s": statistics.median(rates),
        "spread": round((max(rates) - min(rates)) / max(rates), 4),
    }


def format_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table of `rows`, one column per name; missing values are empty."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)
