"""A job's input, tokenizer and requests as a run would have them, opened without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from batchgen.job.input.reader import Reader
from batchgen.job.model.files import ModelFiles, resolve_model
from batchgen.job.run.stages import make_requests
from batchgen.job.spec import JobSpec
from batchgen.job.text.requests import Requests
from batchgen.job.text.tokenizer import TextCodec, load_codec

__all__ = ["OpenedJob", "opened", "resolved"]


@dataclass(frozen=True, slots=True)
class OpenedJob:
    """Rows to read once, and what makes prompts of them."""

    spec: JobSpec
    files: ModelFiles
    reader: Reader
    codec: TextCodec
    requests: Requests


def resolved(spec: JobSpec) -> ModelFiles:
    """The model's small files. Raises ModelRefusedError."""
    files = resolve_model(spec.model, spec.revision, spec.allow_pickle)
    files.check_supported()
    return files


@contextmanager
def opened(spec: JobSpec, files: ModelFiles) -> Iterator[OpenedJob]:
    """Raises what opening an input, a template or a tokenizer raises."""
    given = spec.input
    served = (*given.served_model_names, *files.served_names)
    reader = Reader(
        replace(given, served_model_names=served),
        flags=spec.sampling,
        generation_defaults=files.generation_defaults,
    )
    codec = load_codec(
        files,
        spec.chat_template,
        hide_torch=True,
        trust_remote_code=spec.trust_remote_code,
        now=spec.template_time or datetime.now(),
    )
    requests = make_requests(spec, files, codec)
    try:
        yield OpenedJob(spec, files, reader, codec, requests)
    finally:
        requests.close()
