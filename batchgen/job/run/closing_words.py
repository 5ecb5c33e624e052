"""What a finished run says on stderr, one sentence a fact; all but failures only without -q."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from batchgen.counts import counted
from batchgen.job.run.row_advice import MENDED_APART, advice_for
from batchgen.job.run.summary import Summary

__all__ = ["closing_words", "failure_words", "kinds_of_failures"]

_KINDS_SHOWN = 3


def failure_words(summary: Summary) -> Iterator[str]:
    """How many rows failed, and of what; the first of each kind, and what to do about it."""
    others = "the others are done" if summary.shard else f"the others are in {summary.out}"
    kinds = kinds_of_failures(summary)
    yield (
        f"batchgen: {summary.errors:,} of {counted(summary.rows, 'row')} failed ({kinds}); "
        + (others if summary.ok else "none has a completion")
    )
    for failure in summary.failures[:_KINDS_SHOWN]:
        yield f"  {failure.origin}: {failure.code}: {failure.message}"
        yield f"    next: {advice_for(failure.code, failure.message, failure.origin)}"
    if not summary.failures and summary.error_codes:
        code = max(summary.error_codes, key=lambda one: summary.error_codes[one])
        yield f"  next: {advice_for(code)}"
    named = {failure.code for failure in summary.failures}
    if summary.shard is None and not summary.error_codes.keys() <= named:  # of an earlier run
        yield f"  which: batchgen inspect {quote(summary.out)} --failed"
    if summary.ok and any("--retry" not in advice_for(code) for code in summary.error_codes):
        yield f"  {MENDED_APART}"


def kinds_of_failures(summary: Summary) -> str:
    """`12 invalid_json, 1 oom`: the commonest first."""
    ranked = sorted(summary.error_codes.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{number:,} {code}" for code, number in ranked)


def closing_words(
    summary: Summary, *, worked: bool, plain_prompts: bool, time_in_chats: str | None
) -> Iterator[str]:
    """`worked`: there was something to do. `plain_prompts`: a chat model got prompts that did not
    go through its template. `time_in_chats`: the moment that the template told of itself."""
    if summary.rows == 0:
        whose = f" for shard {summary.shard}" if summary.shard else ""
        yield f"the input has no rows{whose}: nothing was generated (is it the one you meant?)"
    if worked and summary.shard is not None:
        yield f"shard {summary.shard} is done; once all are: batchgen merge {summary.out}"
    if summary.length:
        cut = counted(summary.length, "completion was", "completions were")
        yield f"{cut} cut by max_tokens"
    if summary.truncated:
        yield f"{counted(summary.truncated, 'prompt was', 'prompts were')} cut to fit"
    if summary.skipped:
        yield f"{counted(summary.skipped, 'row was', 'rows were')} skipped: too long"
    if time_in_chats:
        yield (
            f"the chat template reads the time: {time_in_chats} in all rows, when the job began; "
            f"to make the same prompts in another job: --template-time {time_in_chats}"
        )
    if plain_prompts:
        yield "the model is a chat model and got plain prompts: --as-chat makes them chats"
