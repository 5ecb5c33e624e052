"""What a run says on stderr before it computes, one sentence a fact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from batchgen.counts import counted
from batchgen.engine.request import SamplingParams
from batchgen.errors import BatchgenError
from batchgen.job.model.files import ModelFiles
from batchgen.job.spec import JobSpec
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.manifest import Manifest
from batchgen.job.stores.places import Place

__all__ = ["opening_words", "recorded_facts"]


def recorded_facts(spec: JobSpec, folder: Place) -> dict[str, Any]:
    """Device and versions of the run before this one; {} where there was none."""
    with suppress(BatchgenError):  # the ledger will say what is wrong with a manifest
        before = Manifest.read(Layout(folder, spec.out, spec.shard, spec.form).own_manifest)
        return {} if before is None else before.facts
    return {}


def opening_words(num_done: int, files: ModelFiles | None, params: SamplingParams) -> Iterator[str]:
    """`params`: of a row that sets none."""
    if num_done:
        yield f"continuing: {counted(num_done, 'row is', 'rows are')} done"
    if files is not None and files.ignored_settings:
        named = ", ".join(files.ignored_settings)
        yield f"not served, and ignored, of the model's generation_config: {named}"
    if params.n > 1 and not params.temperature:
        yield f"--n {params.n} at temperature 0 gives equal samples: give --temperature too"
