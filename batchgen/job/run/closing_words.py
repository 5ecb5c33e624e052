"""What a finished run says on stderr, one sentence a fact; all but failures only without -q."""

from __future__ import annotations

from collections.abc import Iterator

from batchgen.counts import counted
from batchgen.job.run.summary import Summary
from batchgen.job.storage.manifest import FinalReport

__all__ = ["closing_words", "failure_words"]


def failure_words(summary: Summary, totals: FinalReport) -> str:
    """How many rows failed, and of what."""
    codes = ", ".join(f"{n:,} {code}" for code, n in sorted(totals.error_codes.items()))
    others = "the others are done" if summary.shard else f"the others are in {summary.out}"
    return f"{summary.errors:,} of {counted(summary.rows, 'row')} failed ({codes}); {others}"


def closing_words(
    summary: Summary, *, worked: bool, plain_prompts: bool, time_in_chats: str | None = None
) -> Iterator[str]:
    """`worked`: there was something to do. `plain_prompts`: a chat model got prompts that did not
    go through its template. `time_in_chats`: the moment that the template told of itself."""
    if summary.rows == 0:
        whose = f" for shard {summary.shard}" if summary.shard else ""
        yield f"the input has no rows{whose}: nothing was generated"
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
