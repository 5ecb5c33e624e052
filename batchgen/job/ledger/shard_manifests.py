"""What a run knows of the shards beside it: their manifests, and how far each read the input."""

from __future__ import annotations

from collections.abc import Iterable

from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.manifest import Manifest
from batchgen.job.stores.places import Place

__all__ = ["all_manifests", "furthest_input", "furthest_of"]


def all_manifests(layout: Layout, job: Manifest) -> dict[Place, Manifest]:
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
    return furthest_of([job, *all_manifests(layout, job).values()])


def furthest_of(manifests: Iterable[Manifest]) -> InputCheckpoint | None:
    """The input as far as the run that read most of it read it."""
    seen = (found for manifest in manifests if (found := manifest.input) is not None)
    return max(seen, key=lambda found: found.rows_read, default=None)
