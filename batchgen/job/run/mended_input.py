"""The input of an output, or of a job that is not finished, of which rows that failed were mended
since: `--retry failed` takes it as it is now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from batchgen.counts import counted
from batchgen.errors import FingerprintMismatchError
from batchgen.job.input.reader import Reader
from batchgen.job.input.rereading import Reread, reread
from batchgen.job.ledger.reopen import parts_of_job
from batchgen.job.spec import JobSpec
from batchgen.job.storage.failed_rows import failed_rows_done, kept_failed_rows
from batchgen.job.storage.layout import Layout, folder_of
from batchgen.job.storage.manifest import Manifest

__all__ = ["Mended", "mended_input"]

Mended = Callable[[Manifest, FingerprintMismatchError], bool]
"""Called with what says that the input changed, which it raises, or something better, unless the
manifest may take the input as it is now; whether rows came behind those that were answered."""


def mended_input(spec: JobSpec, reader: Reader) -> Mended:
    """Of this job: what a changed input means."""

    def taken(manifest: Manifest, changed: FingerprintMismatchError) -> bool:
        found = _reread(spec, reader, manifest)
        if found is None:
            raise changed
        rows = counted(found.mended, "row that failed is", "rows that failed are")
        if spec.retry != "failed":
            raise FingerprintMismatchError(
                f"{rows} another in the input now; all that have a completion are as they were",
                "--retry failed computes such rows again, and keeps the others",
            )
        more = manifest.is_complete and found.more
        if more and not spec.incremental and spec.input.limit is None:
            raise FingerprintMismatchError(
                f"{rows} another in the input now, and more rows came behind them",
                "--retry failed --incremental computes both",
            )
        manifest.input = replace(found.read, sources=tuple(reader.identity()))
        return more

    return taken


def _reread(spec: JobSpec, reader: Reader, manifest: Manifest) -> Reread | None:
    recorded = manifest.input
    if recorded is None or not recorded.row_sum:
        return None
    layout = Layout(folder_of(spec.out, spec.checkpoint_dir), spec.out, None, spec.form)
    failed = (
        kept_failed_rows(layout.folder, manifest.job_id)
        if manifest.is_complete
        else failed_rows_done(parts_of_job(layout, manifest), recorded.rows_read)
    )
    return reread(reader, recorded, failed) if failed else None
