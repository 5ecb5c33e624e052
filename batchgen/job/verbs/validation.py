"""Checks every row of an input without running a model: the work behind `batchgen validate`.

With a model, its tokenizer and template are applied too, which finds prompts that do not fit and
conversations that the template refuses. Memory does not grow with the number of bad rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchgen.errors import ErrorCode, RowError
from batchgen.job.flow.reader_thread import CHUNK_CHARACTERS, CHUNK_ROWS, chunks
from batchgen.job.input.reader import Reader
from batchgen.job.rows import InputRow
from batchgen.job.text.overlong import OverlongPolicy, too_long
from batchgen.job.text.requests import Requests, answer_parsers
from batchgen.job.text.row_prompts import RowPrompts
from batchgen.job.text.tokenizer import TextCodec

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

    `codec` None: no prompt is tokenised. `max_model_len`: tokens that a prompt and one generated
    token may have together; None = not checked.
    """

    def __init__(
        self,
        reader: Reader,
        codec: TextCodec | None = None,
        max_model_len: int | None = None,
        eos_token_ids: Sequence[int] = (),
        overlong: str = "error",
        reasoning_parser: str = "auto",
    ) -> None:
        self._reader = reader
        template = reader.row_template
        self._requests = (
            None
            if codec is None
            else Requests(
                codec,
                eos_token_ids=eos_token_ids,
                row_template=template,
                overlong=OverlongPolicy(overlong, max_model_len),
                parsers=answer_parsers(codec, reasoning_parser),
            )
        )
        self._row_prompts = None if codec or template is None else RowPrompts(template)
        self._max_model_len = max_model_len
        self._skips = overlong == "skip"
        self.rows = self.skipped = 0
        self.codes: Counter[str] = Counter()

    @property
    def truncated(self) -> int:
        """Prompts so far that would be cut to fit."""
        return 0 if self._requests is None else self._requests.num_cut

    @property
    def bad(self) -> int:
        """Bad rows so far."""
        return self.codes.total()

    def __iter__(self) -> Iterator[BadRow]:
        """Check all rows. Raises what reading raises."""
        try:
            for chunk in chunks(self._reader, CHUNK_ROWS, CHUNK_CHARACTERS):
                yield from self._bad_rows(chunk)
        finally:
            for opened in (self._requests, self._row_prompts):
                if opened is not None:
                    opened.close()

    def _bad_rows(self, chunk: Sequence[InputRow]) -> Iterator[BadRow]:
        self.rows += len(chunk)
        errors = self._errors(chunk)
        for row in chunk:
            error = errors.get(row.index)
            if error is not None:
                self.codes[str(error.code)] += 1
                yield BadRow(row.origin, row.index, row.output_id, str(error.code), error.message)

    def _errors(self, chunk: Sequence[InputRow]) -> dict[int, RowError]:
        """Index -> error of the bad rows among these."""
        if self._requests is None:
            if self._row_prompts is not None:
                self._row_prompts.fill(chunk)
            return {row.index: row.error for row in chunk if row.error is not None}
        ready, failed = self._requests.prepare(chunk)
        errors = {bad.row.index: bad.error for bad in failed}
        limit = self._max_model_len
        for row in ready:
            if limit is not None and row.num_computed_tokens >= limit:
                errors[row.row.index] = too_long(row.num_computed_tokens, limit)
        return self._without_skipped(errors) if self._skips else errors

    def _without_skipped(self, errors: dict[int, RowError]) -> dict[int, RowError]:
        kept = {i: one for i, one in errors.items() if one.code is not ErrorCode.PROMPT_TOO_LONG}
        self.skipped += len(errors) - len(kept)
        return kept
