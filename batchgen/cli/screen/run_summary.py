"""A run's summary for people: what came out, how fast, where the time went, what to do next."""

from __future__ import annotations

from shlex import quote

from batchgen.cli.screen.table import aligned
from batchgen.errors import StoppedError
from batchgen.job.run.closing_words import kinds_of_failures
from batchgen.job.run.summary import Summary

__all__ = ["summary_lines"]

_BOUND_BY = {
    "decode": "generating tokens (decode)",
    "prefill": "reading prompts (prefill)",
    "host": "this machine's CPU, between steps (host)",
    "input": "reading and tokenising rows (input)",
}
_STOPPED = StoppedError.exit_code


def summary_lines(summary: Summary) -> list[str]:
    """Some eight aligned lines."""
    return [
        f"{summary.out}: {_outcome(summary)}",
        *aligned(
            [
                ("rows", _rows(summary)),
                ("failed", kinds_of_failures(summary)),
                ("first", _first_failure(summary)),
                ("tokens", _tokens(summary)),
                ("speed", _speed(summary)),
                ("time", _time(summary)),
                ("model", f"{summary.model} on {summary.device}"),
                ("next", _next(summary)),
            ]
        ),
    ]


def _outcome(summary: Summary) -> str:
    if summary.exit_code == _STOPPED:
        return "stopped; finished rows are kept"
    if summary.exit_code not in (0, 3):
        return f"not finished (exit code {summary.exit_code}); finished rows are kept"
    return f"shard {summary.shard} is done" if summary.shard else "complete"


def _rows(summary: Summary) -> str:
    parts = [f"{summary.ok:,} ok", f"{summary.errors:,} failed"]
    if summary.skipped:
        parts.append(f"{summary.skipped:,} skipped")
    if summary.length:
        parts.append(f"{summary.length:,} cut by max_tokens")
    if summary.reused:
        parts.append(f"{summary.reused:,} from earlier runs")
    return ", ".join(parts)


def _first_failure(summary: Summary) -> str:
    """Of the commonest kind; where the failures ended the run badly they were told already."""
    if not summary.failures or summary.exit_code == 3:
        return ""
    first = summary.failures[0]
    return f"{first.origin}: {first.message}"


def _tokens(summary: Summary) -> str:
    cached = f" ({summary.cached_tokens:,} from the cache)" if summary.cached_tokens else ""
    return f"{summary.prompt_tokens:,} read{cached}, {summary.completion_tokens:,} written"


def _speed(summary: Summary) -> str:
    if not summary.engine_s or not summary.computed:
        return ""
    rows = summary.computed / summary.engine_s
    return (
        f"{summary.output_tokens_per_s:,.0f} tokens/s written, "
        f"{summary.total_tokens_per_s:,.0f} with prompts, {rows:,.1f} rows/s"
    )


def _time(summary: Summary) -> str:
    rest = summary.wall_s - summary.load_s - summary.engine_s
    if not summary.engine_s:
        return f"{summary.wall_s:,.1f} s"
    bound = _BOUND_BY.get(summary.bound_by)
    text = (
        f"{summary.wall_s:,.1f} s: loading {summary.load_s:,.1f}, "
        f"generating {summary.engine_s:,.1f}, the rest {max(rest, 0.0):,.1f}"
    )
    return f"{text}; bound by {bound}" if bound else text


def _next(summary: Summary) -> str:
    out = quote(summary.out)
    if summary.exit_code == _STOPPED:
        return "run the same command again to continue"
    if summary.exit_code not in (0, 3):
        return f"mend what the message names, run again; batchgen status {out}"
    if summary.shard:
        return f"batchgen merge {out}, once all shards are done"
    return f"batchgen report {out}" if not summary.errors else f"batchgen inspect {out} --failed"
