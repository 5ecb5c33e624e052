"""What a shard has of its own, and what it knows of the runs beside it."""

from __future__ import annotations

from pathlib import Path

from batchgen.errors import BatchgenError
from batchgen.job.layout import Layout
from batchgen.job.manifest import FinalReport, InputCheckpoint, Manifest
from batchgen.job.output import MissingRowsError
from batchgen.job.parts import list_parts
from batchgen.job.shard import Shard
from batchgen.job.totals import totals_of_parts

__all__ = ["all_manifests", "furthest_input", "own_manifest", "shard_totals"]


def own_manifest(layout: Layout, job: Manifest) -> Manifest:
    """The shard's own manifest in this job: the one that it wrote, or a new one."""
    own = Manifest.read(layout.own_manifest)
    if own is not None and own.job_id == job.job_id:
        return own
    return Manifest(job.fingerprint, job_id=job.job_id, generation=job.generation)


def all_manifests(layout: Layout, job: Manifest) -> dict[Path, Manifest]:
    """The manifests of all shards of a job, by folder."""
    found = {}
    for shard in layout.shards_begun():
        manifest = Manifest.read(shard.own_manifest)
        if manifest is not None and manifest.job_id == job.job_id:
            found[shard.work] = manifest
    return found


def furthest_input(layout: Layout, mine: Manifest) -> InputCheckpoint | None:
    """The input as far as any run of the job read it; a shard that has read it knows itself."""
    if layout.shard is not None and mine.input is not None:
        return mine.input
    job = mine if layout.shard is None else Manifest.read(layout.manifest)
    if job is None:
        return mine.input
    seen = [manifest.input for manifest in (job, *all_manifests(layout, job).values())]
    return max(
        (found for found in seen if found is not None),
        key=lambda found: found.rows_read,
        default=None,
    )


def shard_totals(layout: Layout, shard: Shard, num_done: int, total_rows: int) -> FinalReport:
    """Totals of a shard that has all of its rows. Raises MissingRowsError."""
    wanted = shard.num_rows(total_rows)
    if num_done < wanted:
        raise MissingRowsError(
            f"{wanted - num_done:,} of the {wanted:,} rows of shard {shard} are missing",
            "run the same command again: it computes what is missing",
        )
    if num_done > wanted:
        raise BatchgenError(
            f"shard {shard} has {num_done:,} rows, and the input only {wanted:,} for it",
            "the input is not the one that was read before; restore it",
        )
    return totals_of_parts(list_parts(layout.parts, shard), shard)
