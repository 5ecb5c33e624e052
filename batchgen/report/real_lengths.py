"""A workload with the lengths of a real input file: prompts tokenised, max_tokens as rows say."""

from __future__ import annotations

from collections.abc import Sequence

from batchgen.errors import InvalidDataError
from batchgen.job.input.reader import Reader
from batchgen.job.model.files import ModelFiles
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec
from batchgen.job.text.tokenizer import TextCodec, load_codec
from batchgen.report.workloads import WorkItem, from_lengths

__all__ = ["real_workload"]


def real_workload(
    inputs: Sequence[str], files: ModelFiles, limit: int | None = None
) -> list[WorkItem]:
    """Rows that are errors are left out. Raises InvalidDataError when none is left."""
    codec = load_codec(files)
    spec = InputSpec(tuple(inputs), limit=limit)
    reader = Reader(spec, output=None, flags={}, generation_defaults=files.generation_defaults)
    lengths = [
        (len(_token_ids(row, codec)), row.params.max_tokens) for row in reader if row.error is None
    ]
    if not lengths:
        raise InvalidDataError(
            "the input has no row to measure", "try `batchgen validate --in ...`"
        )
    return from_lengths(lengths, vocab=codec.vocab_size)


def _token_ids(row: InputRow, codec: TextCodec) -> Sequence[int]:
    if row.prompt_token_ids is not None:
        return row.prompt_token_ids
    if row.messages is not None:
        return codec.render(row.messages)
    return codec.encode_batch([row.prompt or ""])[0]
