"""What one step is: `{sequence: num_tokens}` as parallel lists, and what comes back from it.

A `ScheduledStep` is all that a runner gets. It carries differences (admitted sequences, appended
blocks), so that a runner may keep block tables, parameters and last tokens on the device, in the
row `Sequence.slot`; and numbers and token ids alone, so that rank 0 of several can send it on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from batchgen.engine.scheduling.scoring import ScoredRow, scored_range
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.errors import ErrorCode

__all__ = ["BlockCopy", "BlockUpdate", "RowFailure", "ScheduledStep", "StepOutput"]


class BlockUpdate(NamedTuple):
    """`blocks` stand in the block table's row `slot` from column `first` on."""

    slot: int
    first: int
    blocks: list[int]


class BlockCopy(NamedTuple):
    """Before the step, what lies in block `source` goes to `target`, which is the sequence's in
    `slot`. No target is another copy's source."""

    slot: int
    source: int
    target: int


class RowFailure(NamedTuple):
    """Why one sampled row has no token."""

    code: ErrorCode
    message: str


@dataclass(slots=True)
class ScheduledStep:
    """Row i computes `num_tokens[i]` tokens of `sequences[i]` from position `starts[i]` on.

    Rows listed in `sampled` reach the end of what is known and sample one token each, at position
    `output_positions[j]` of their output. `total_tokens` is the sum of `num_tokens`.
    """

    sequences: list[Sequence] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    scored: list[ScoredRow] = field(default_factory=list)
    num_scored: int = 0
    """Positions of `scored` together."""
    output_positions: list[int] = field(default_factory=list)
    total_tokens: int = 0
    known: list[int] = field(default_factory=list)
    """Rows whose input tokens the host knows. Every other row computes one token: the one that an
    earlier step sampled, which the device has and the host has not read yet."""
    first: list[Sequence] = field(default_factory=list)
    """Sequences that may sample their first token in this step."""
    num_ignored: int = 0
    """Sampled rows whose token was thrown away when it came, as their sequence had finished."""
    num_sharing_prefix: int = 0
    """Running sequences whose first blocks were in the prefix cache when they were admitted."""
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    block_updates: list[BlockUpdate] = field(default_factory=list)
    block_copies: list[BlockCopy] = field(default_factory=list)
    """To be made once: a runner empties the list when they are on their way. Run again, the step
    finds its blocks copied, and their sources may be others' by then."""

    def __len__(self) -> int:
        return len(self.sequences)

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        """Append a row and advance the sequence by it."""
        start = sequence.num_computed_tokens
        if num_tokens > 1 or start < len(sequence.token_ids):
            self.known.append(len(self.sequences))
        if sequence.advance(num_tokens):
            if not sequence.timings.first_token:
                self.first.append(sequence)
            self.sampled.append(len(self.sequences))
            end = start + num_tokens  # all that is known or pending
            self.output_positions.append(end - sequence.num_prompt_tokens)
        if sequence.request.targets is not None:
            begin, last = scored_range(sequence.request.targets, start, start + num_tokens)
            if begin < last:
                self.scored.append(ScoredRow(len(self.sequences), begin, last))
                self.num_scored += last - begin
        self.sequences.append(sequence)
        self.slots.append(sequence.slot)
        self.num_tokens.append(num_tokens)
        self.starts.append(start)
        self.total_tokens += num_tokens

    def count_decodes(self, begun: int) -> None:
        """Rows from `begun` on were appended by `decoding.add_decodes`: one token each, sampled."""
        rows = range(begun, len(self.sequences))
        self.sampled += rows
        self.num_tokens += [1] * len(rows)
        self.total_tokens += len(rows)

    def split(self) -> Iterator[ScheduledStep]:
        """Two steps of half the rows each: rows are independent, so their order is free."""
        middle = len(self) // 2
        yield self._rows(0, middle)
        yield self._rows(middle, len(self))

    def _rows(self, start: int, end: int) -> ScheduledStep:
        picked = [j for j, row in enumerate(self.sampled) if start <= row < end]
        slots = self.slots[start:end]
        scored = [
            one._replace(row=one.row - start) for one in self.scored if start <= one.row < end
        ]
        return ScheduledStep(
            sequences=self.sequences[start:end],
            slots=slots,
            num_tokens=self.num_tokens[start:end],
            starts=self.starts[start:end],
            sampled=[self.sampled[j] - start for j in picked],
            scored=scored,
            num_scored=sum(one.end - one.begin for one in scored),
            output_positions=[self.output_positions[j] for j in picked],
            known=list(range(end - start)),  # every step before it was delivered
            first=self.first,
            total_tokens=sum(self.num_tokens[start:end]),
            num_sharing_prefix=self.num_sharing_prefix,
            admitted=self.admitted,
            block_updates=[update for update in self.block_updates if update.slot in slots],
            block_copies=[copy for copy in self.block_copies if copy.slot in slots],
        )


@dataclass(slots=True)
class StepOutput:
    """One entry for each of the step's sampled rows, in their order."""

    tokens: list[int]
    logprobs: list[float] | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None
    """Most likely (id, logprob) of each row, descending; as many as the row asked for."""
    scores: list[tuple[list[float], list[list[tuple[int, float]]]]] = field(default_factory=list)
    """For each of the step's scored rows, the log-probabilities of its targets there; and for each
    of its positions the most likely (id, logprob), where it asks for any."""
    failures: dict[int, RowFailure] = field(default_factory=dict)
    """Sampled row -> why it has no token."""
    shared_read_tokens: int = 0
    """Keys that rows did not read themselves."""

    def deliver(self, j: int, sequence: Sequence) -> bool:
        """Hand sampled row j to its sequence; whether the sequence is finished with it."""
        if failure := self.failures.get(j):
            sequence.fail(failure.code, failure.message)
        else:
            logprob = self.logprobs[j] if self.logprobs is not None else None
            top = self.top_logprobs[j] if self.top_logprobs is not None else None
            sequence.deliver(self.tokens[j], logprob, top)
        return sequence.is_finished
