"""The summary of a run out of its ledger's totals and its engine's counters."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchgen.engine.bounds import bound_by
from batchgen.job.ledger.ledger import Ledger
from batchgen.job.run.summary import Summary
from batchgen.job.storage.final_report import FinalReport
from batchgen.startup import timeline
from batchgen.startup.host_memory import peak_resident_bytes

if TYPE_CHECKING:
    from batchgen.job.run.assembly import Assembly

__all__ = ["summary_of"]

_SPANS = {
    "first_token_s": (timeline.FIRST_TOKEN,),
    "import_s": ("imports",),
    "tokenizer_s": ("tokenizer",),
    "weights_s": ("weights",),
    "proof_s": ("discover", "proof", "confirm"),
    "compile_s": ("optimize", "largest step"),
    "capture_s": ("capture",),
}
"""The summary's key -> the timeline's spans that it adds up."""


def summary_of(
    base: Summary, totals: FinalReport, started: float, work: tuple[Ledger, Assembly] | None
) -> Summary:
    """`base` with its numbers: totals of the whole output, and what this run added to it.

    `started`: moment of the run's begin on the monotonic clock. `work` is None where there was
    nothing to do. `reused` is what is left when this run's rows are taken off.
    """
    computed = 0 if work is None else min(work[1].live.rows, totals.rows)
    counted = {
        "rows": totals.rows,
        "error_codes": dict(totals.error_codes),
        "ok": totals.rows - totals.errors - totals.skipped,
        "errors": totals.errors,
        "skipped": totals.skipped,
        "length": totals.length,
        "computed": computed,
        "reused": totals.rows - computed,
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "cached_tokens": totals.cached_tokens,
        "wall_s": round(time.monotonic() - started, 3),
    }
    return base.updated(counted | ({} if work is None else _of_this_run(*work, totals.error_codes)))


def _of_this_run(ledger: Ledger, assembly: Assembly, counts: dict[str, int]) -> dict[str, object]:
    stage, live = assembly.engine_stage, assembly.live
    stats, seconds = stage.stats, stage.engine_s
    output = live.finished_tokens
    where = {"device": stats.device} if stats.device else {}
    return where | {
        "failures": tuple(assembly.writer_stage.failures.commonest(counts)),
        "recomputed": ledger.num_recomputed,
        "truncated": assembly.num_cut,
        "load_s": round(stage.load_s, 3),
        "engine_s": round(seconds, 3),
        **{key: round(sum(map(timeline.seconds_of, names)), 3) for key, names in _SPANS.items()},
        "output_tokens_per_s": _rate(output, seconds),
        "total_tokens_per_s": _rate(output + live.prompt_tokens, seconds),
        "prefix_hit_rate": _share(stats.cached_tokens, stats.prompt_tokens),
        "folded_rows": stats.folded_rows,
        "shared_read_tokens": stats.shared_read_tokens,
        "bound_by": bound_by(stats, seconds),
        "preemptions": stats.preemptions,
        "oom_events": stats.oom_events,
        "peak_memory_bytes": stats.peak_memory_bytes or peak_resident_bytes(),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _rate(tokens: int, seconds: float) -> float:
    return round(tokens / seconds, 1) if seconds > 0 else 0.0
