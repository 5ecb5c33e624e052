"""The common case of a step, in a few operations a row: one token more, nothing else to decide.

With a small model on a fast GPU the host's work is what bounds a run: hundreds of rows take a token
each while the device computes for two milliseconds. So rows that only decode pass through two tight
loops, and come out of them as soon as anything else has to happen: a block is full, the length
ends, a token may be the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batchgen.engine.scheduling.sequence import Sequence, SequenceStatus
from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["add_decodes", "append_tokens"]


def add_decodes(
    sequences: Iterable[Sequence], step: ScheduledStep, most_rows: int, most_tokens: int
) -> Iterator[Sequence]:
    """Add those that only decode to the step; yields the others in their places, for the caller to
    add. Ends when the step has `most_rows` or `most_tokens`."""
    rows, slots, starts = step.sequences, step.slots, step.starts
    positions, known = step.output_positions, step.known
    begun = len(rows)
    end = begun + min(most_rows - begun, most_tokens - step.total_tokens)
    for sequence in sequences:
        if len(rows) >= end:
            break
        start = sequence.num_computed_tokens
        if start < sequence.plain_until:
            pending = sequence.num_pending
            if not pending:
                known.append(len(rows))
            sequence.num_computed_tokens = start + 1
            sequence.num_pending = pending + 1
            sequence.num_in_flight += 1
            rows.append(sequence)
            slots.append(sequence.slot)
            starts.append(start)
            positions.append(start + 1 - sequence.num_prompt_tokens)
        else:
            step.count_decodes(begun)
            yield sequence
            begun = len(rows)
            end = begun + min(most_rows - begun, most_tokens - step.total_tokens)
    step.count_decodes(begun)


def append_tokens(
    step: ScheduledStep, tokens: Iterable[int], *, plainly: bool
) -> Iterator[tuple[int, Sequence]]:
    """Hand the sampled rows of a launched step their tokens; yields (j, sequence) for each sampled
    row j that may end with its token, or wants more than that, for the caller to deliver. Sequences
    that have finished ignore theirs. `plainly` False: yields all."""
    rows, finished = step.sequences, SequenceStatus.FINISHED
    for j, (row, token) in enumerate(zip(step.sampled, tokens, strict=True)):
        sequence = rows[row]
        sequence.num_pending -= 1
        if sequence.status is finished:
            step.num_ignored += 1  # it ended a step ago
            continue
        known = sequence.token_ids
        if plainly and len(known) < sequence.plain_length and token not in sequence.stop_ids:
            known.append(token)
            sequence.output_token_ids.append(token)
        else:
            yield j, sequence
