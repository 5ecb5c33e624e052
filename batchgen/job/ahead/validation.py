"""Checks every row of an input without running a model: the work behind `batchgen validate`.

A row is bad if a run with the same settings would make an error row of it: its prompt is rendered
and tokenised as a run would. Memory does not grow with the number of bad rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass

from batchgen.errors import ErrorCode, RowError
from batchgen.job.ahead.opening import OpenedJob
from batchgen.job.flow.reader_stage import CHUNK_CHARACTERS, CHUNK_ROWS, chunks
from batchgen.job.input.reader import Reader
from batchgen.job.rows import InputRow
from batchgen.job.templates.row_prompts import RowPrompts

__all__ = ["BadRow", "Validation"]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that would become an error row. `origin` is `file:line`; `id` as in the output."""

    origin: str
    index: int
    id: str
    error_code: str
    error_message: str


class Validation:
    """Iterate for the bad rows, in input order; then `rows`, `bad` and `codes` are complete.

    Of a reader alone, rows are bad that no model would take: nothing is rendered but `--template`,
    nothing tokenised.
    """

    def __init__(self, job: OpenedJob | Reader) -> None:
        self._job = None if isinstance(job, Reader) else job
        self._reader = job if isinstance(job, Reader) else job.reader
        template = self._reader.row_template
        self._row_prompts = None if self._job or template is None else RowPrompts(template)
        self._skips = self._job is not None and self._job.spec.input.overlong == "skip"
        self.rows = self.skipped = 0
        self.codes: Counter[str] = Counter()

    @property
    def tokenises(self) -> bool:
        """Whether a tokenizer and a template judge the rows too."""
        return self._job is not None

    @property
    def truncated(self) -> int:
        """Prompts so far that would be cut to fit."""
        return 0 if self._job is None else self._job.requests.num_cut

    @property
    def bad(self) -> int:
        """Bad rows so far."""
        return self.codes.total()

    def __iter__(self) -> Iterator[BadRow]:
        """Check all rows. Raises what reading raises."""
        with closing(self._row_prompts) if self._row_prompts else nullcontext():
            for chunk in chunks(self._reader, CHUNK_ROWS, CHUNK_CHARACTERS):
                yield from self._bad_rows(chunk)

    def _bad_rows(self, chunk: list[InputRow]) -> Iterator[BadRow]:
        self.rows += len(chunk)
        errors = self._errors(chunk)
        for row in chunk:
            error = errors.get(row.index)
            if error is not None:
                self.codes[str(error.code)] += 1
                yield BadRow(row.origin, row.index, row.output_id, str(error.code), error.message)

    def _errors(self, chunk: list[InputRow]) -> dict[int, RowError]:
        """Index -> error of the bad rows among these."""
        if self._job is None:
            return self._errors_of_rows(chunk)
        errors = {bad.row.index: bad.error for bad in self._job.prepare(chunk)[1]}
        return self._without_skipped(errors) if self._skips else errors

    def _errors_of_rows(self, chunk: Sequence[InputRow]) -> dict[int, RowError]:
        if self._row_prompts is not None:
            self._row_prompts.fill(chunk)
        return {row.index: row.error for row in chunk if row.error is not None}

    def _without_skipped(self, errors: dict[int, RowError]) -> dict[int, RowError]:
        kept = {i: one for i, one in errors.items() if one.code is not ErrorCode.PROMPT_TOO_LONG}
        self.skipped += len(errors) - len(kept)
        return kept
