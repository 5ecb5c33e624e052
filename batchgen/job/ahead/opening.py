"""A job's input, tokenizer and requests as a run would have them, opened without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from batchgen.job.input.reader import Reader
from batchgen.job.model.files import ModelFiles
from batchgen.job.rows import InputRow
from batchgen.job.run.stages import ECHO_LEN, make_requests
from batchgen.job.spec import JobSpec
from batchgen.job.text.overlong import too_long
from batchgen.job.text.prepared import FailedRow, PreparedRow
from batchgen.job.text.requests import Requests
from batchgen.job.text.text_codec import TextCodec
from batchgen.job.text.tokenizer import load_codec

__all__ = ["OpenedJob", "opened"]


@dataclass(frozen=True, slots=True)
class OpenedJob:
    """Rows to read once, and what makes prompts of them. `max_model_len`: tokens of prompt and
    output together, as the engine will have it; None: nothing is too long."""

    spec: JobSpec
    files: ModelFiles | None
    reader: Reader
    codec: TextCodec
    requests: Requests
    max_model_len: int | None

    def prepare(self, rows: list[InputRow]) -> tuple[list[PreparedRow], list[FailedRow]]:
        """Rows that the engine would take, and those that would become error rows."""
        ready, failed = self.requests.prepare(rows)
        limit = self.max_model_len
        if limit is None:
            return ready, failed
        long = [row for row in ready if row.num_computed_tokens >= limit]
        unfit = [_too_long(row, limit) for row in long]
        return [row for row in ready if row.num_computed_tokens < limit], [*failed, *unfit]


def _too_long(row: PreparedRow, limit: int) -> FailedRow:
    return FailedRow(row.row, too_long(row.num_computed_tokens, limit), row.prompt)


@contextmanager
def opened(spec: JobSpec, files: ModelFiles | None) -> Iterator[OpenedJob]:
    """Raises what opening an input, a template or a tokenizer raises."""
    reader = Reader.of_job(spec, files)
    codec = load_codec(
        files,
        spec.chat_template,
        hide_torch=True,
        trust_remote_code=spec.trust_remote_code,
        now=spec.template_time or datetime.now(),
    )
    requests = make_requests(spec, files, codec)
    try:
        yield OpenedJob(spec, files, reader, codec, requests, _longest(spec, files))
    finally:
        requests.close()


def _longest(spec: JobSpec, files: ModelFiles | None) -> int | None:
    if spec.max_model_len is not None:
        return spec.max_model_len
    return ECHO_LEN if spec.engine == "echo" or files is None else files.max_position
