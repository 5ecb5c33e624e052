"""`merge`: the output from the parts that shards (or stopped runs) left, without any of them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from batchgen.counts import counted
from batchgen.errors import FingerprintMismatchError, InputUnreadableError, UsageError
from batchgen.job.form import Form
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.ledger.completion import complete_written, write_whole
from batchgen.job.ledger.joining import join
from batchgen.job.ledger.missing_rows import check_nothing_missing
from batchgen.job.ledger.opening import decide, discard_work, has_leftovers, sweep
from batchgen.job.ledger.shard_manifests import all_manifests, furthest_of
from batchgen.job.ledger.survey import survey
from batchgen.job.output.check import MissingRowsError
from batchgen.job.output.merge import DamagedPartError
from batchgen.job.promise import with_changes
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.manifest import Manifest
from batchgen.job.storage.parts import set_aside
from batchgen.job.stores.files import Guard
from batchgen.job.stores.places import Place

__all__ = ["merge_output"]


def merge_output(
    out: Place, ckpt_dir: Place, *, num_rows: int | None = None, lock: str = "fail"
) -> FinalReport:
    """Write `out` from the parts in `ckpt_dir`, verified; totals at once where it is written.

    `num_rows` replaces the input's row count where no run has read the input to its end. Raises
    MissingShardsError naming rows and shards, FingerprintMismatchError where shards read different
    inputs, UsageError, InputUnreadableError, OutputHeldError.
    """
    layout = Layout(ckpt_dir, out)
    job = Manifest.read(layout.manifest)
    if job is None:
        raise InputUnreadableError(
            f"nothing to merge: {ckpt_dir} has no manifest", "run `batchgen run` first"
        )
    layout = replace(layout, form=Form.recorded(job.form, out))
    found = decide(layout, job.fingerprint, overwrite=False)
    if found.finished and not has_leftovers(layout) and job.totals is not None:
        return job.totals
    held = join(layout, uuid.uuid4().hex[:16], lock)
    try:
        return _merged(layout, num_rows, held.check)
    finally:
        held.release()


def _merged(layout: Layout, num_rows: int | None, guard: Guard) -> FinalReport:
    """Look again, now that nobody else is at work, and finish what there is to finish."""
    job = Manifest.read(layout.manifest)
    assert job is not None, "whoever holds the job does not remove its manifest"
    found = decide(layout, job.fingerprint, overwrite=False)
    sweep(layout)
    if found.finished and job.totals is not None:
        discard_work(layout)
        return job.totals
    if found.written is not None:
        return complete_written(layout, job, found.written, guard)
    _settle(layout, job, num_rows)
    return _written(layout, job, guard)


def _written(layout: Layout, job: Manifest, guard: Guard) -> FinalReport:
    """The output from the parts that are good; what is damaged is set aside, then missing."""
    parts, columns = survey(layout, job.job)
    while True:
        check_nothing_missing(layout, job, parts)
        try:
            return write_whole(layout, job, parts, columns, guard)
        except DamagedPartError as error:
            set_aside(error.path, layout.damaged)
            parts = [part for part in parts if part.path != error.path]
        except MissingRowsError:  # rows that two shards had made the count look right
            check_nothing_missing(layout, job, parts, count=False)
            raise


def _settle(layout: Layout, job: Manifest, num_rows: int | None) -> None:
    """Put into the job's manifest what its shards know: the input, and how many rows it has."""
    shards = {folder.name: found for folder, found in all_manifests(layout, job).items()}
    grew = "incremental" in job.reopened
    everyone = {"the job": job} | {f"shard {name}": found for name, found in shards.items()}
    _check_inputs(everyone, sizes_too=not grew)
    job.input = furthest_of(everyone.values())
    ended = {name: found for name, found in shards.items() if found.total_rows is not None}
    if ended:
        first, *others = (found.facts for found in ended.values())
        job.facts = with_changes(first, others)
    totals = {n for found in (job, *ended.values()) if (n := found.total_rows) is not None}
    if grew and totals:
        totals = {max(totals)}  # some ended before the input grew
    if num_rows is not None:
        job.total_rows = num_rows
    elif len(totals) == 1:
        job.total_rows = totals.pop()
    elif totals:
        told = ", ".join(f"{name} {found.total_rows:,}" for name, found in ended.items())
        raise FingerprintMismatchError(
            f"the shards of {layout.out} do not agree on how many rows the input has: {told}",
            "run them again with the same --in and --limit, and --incremental where the input grew",
        )
    else:
        raise UsageError(
            f"how many rows {layout.out} should have is not known: no run and no shard of it is "
            "complete",
            "run the job again (or one of its shards), or give --rows N",
        )


def _check_inputs(manifests: Mapping[str, Manifest], sizes_too: bool) -> None:
    """FingerprintMismatchError where two runs did not read the same input."""
    first: dict[int, tuple[str, InputCheckpoint]] = {}
    sizes: tuple[str, Sequence[object]] | None = None
    for name, manifest in manifests.items():
        seen = manifest.input
        if seen is None:
            continue
        other, before = first.setdefault(seen.rows_read, (name, seen))
        if before.digest != seen.digest:
            first_rows = counted(seen.rows_read, "row differs", "rows differ")
            raise _other_input(other, name, f"the first {first_rows}")
        now = [source.get("size") for source in seen.sources]
        sizes = sizes or (name, now)
        if sizes_too and sizes[1] != now:
            raise _other_input(sizes[0], name, "the sizes of their files differ")


def _other_input(one: str, other: str, how: str) -> FingerprintMismatchError:
    return FingerprintMismatchError(
        f"{one} and {other} did not read the same input: {how}",
        "run the shards again with --incremental if it only grew; else give one input, and another "
        "--out or --overwrite",
    )
