"""What a shard has of its own: its manifest, and whether its rows are all there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchgen.counts import counted
from batchgen.errors import BatchgenError
from batchgen.job.ledger.done_rows import DoneRows
from batchgen.job.ledger.opening import Found, discard_work
from batchgen.job.output.check import MissingRowsError
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.manifest import Manifest

__all__ = ["finish_shard", "is_still_complete", "manifest_to_use"]


def manifest_to_use(
    layout: Layout, found: Found, fingerprint: Mapping[str, Any], overwrite: bool
) -> Manifest:
    """The manifest that a run writes: the job's, or its shard's own; older work of the job that is
    not to be continued is discarded."""
    if layout.shard is not None:
        assert found.manifest is not None, "a shard begins its job before it comes in"
        return found.manifest if found.finished else _own(layout, found.manifest)
    if found.manifest is None or found.finished:
        discard_work(layout)
    return found.manifest or Manifest.begun(fingerprint, overwriting=overwrite)


def _own(layout: Layout, job: Manifest) -> Manifest:
    own = Manifest.read(layout.own_manifest)
    if own is not None and own.job_id == job.job_id:
        own.began = job.began
        return own
    return Manifest(job.fingerprint, job_id=job.job_id, began=job.began, generation=job.generation)


def is_still_complete(layout: Layout, manifest: Manifest, num_done: int) -> bool:
    """Whether a shard that was complete has all of its rows still; else it runs again."""
    shard, total = layout.shard, manifest.total_rows
    if not manifest.is_complete or shard is None:
        return False
    if total is not None and shard.num_rows(total) == num_done:
        return True
    manifest.state, manifest.totals = "running", None
    return False


def finish_shard(layout: Layout, manifest: Manifest, done: DoneRows) -> FinalReport:
    """Note in its manifest that a shard has all its rows: its totals. Raises MissingRowsError."""
    shard, total, num_done = layout.shard, manifest.total_rows, len(done.rows)
    assert shard is not None
    assert total is not None
    wanted = shard.num_rows(total)
    if num_done < wanted:
        raise MissingRowsError(
            f"{wanted - num_done:,} of {counted(wanted, 'row')} of shard {shard} missing",
            "run the same command again: it computes what is missing",
        )
    if num_done > wanted:
        raise BatchgenError(
            f"shard {shard} has {counted(num_done, 'row')}, and the input only {wanted:,} for it",
            "the input is not the one that was read before; restore it",
        )
    report = done.totals()
    manifest.state, manifest.totals = "complete", report
    return report
