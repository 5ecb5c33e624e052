"""What an earlier run left for this output, and whether this job may touch it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from batchgen.errors import BatchgenError, FingerprintMismatchError, OutputUnwritableError
from batchgen.job.form import Form
from batchgen.job.output.output import verified_totals
from batchgen.job.output.provenance import footer_manifest, output_identity, written_rows
from batchgen.job.output.written import what_lacks
from batchgen.job.storage.layout import JOURNALS, SAVED_TOKENS, Layout, list_parts
from batchgen.job.storage.manifest import Manifest, fingerprint_diff
from batchgen.job.storage.parts import part_summary
from batchgen.job.stores.files import is_there, remove_stale
from batchgen.job.stores.places import Place, matching, remove_all, remove_trees
from batchgen.job.stores.remote_path import RemotePath
from batchgen.job.stores.uploads import abort_uploads

__all__ = [
    "Found",
    "check_folder",
    "check_target",
    "decide",
    "discard_work",
    "has_leftovers",
    "holds_no_completion",
    "not_as_written",
    "sweep",
]


@dataclass(frozen=True, slots=True)
class Found:
    """The manifest to go on with; None: begin afresh. `finished`: nothing is left to do.

    `written`: the output has all its rows (so many) already, only the manifest does not say so: a
    crash came between the two.
    """

    manifest: Manifest | None
    finished: bool = False
    written: int | None = None


def decide(layout: Layout, fingerprint: Mapping[str, Any], overwrite: bool) -> Found:
    """Look, without a change: begin, continue, finished; or FingerprintMismatchError.

    With `overwrite`, work begun by an earlier --overwrite of the same job is continued (the same
    command again), all else is begun afresh.
    """
    try:
        manifest = Manifest.read(layout.manifest)
        if manifest is not None:
            manifest.check_fingerprint(fingerprint, layout.out)
    except FingerprintMismatchError:
        if overwrite or _nothing_to_lose(layout):
            return Found(None)
        raise
    if manifest is not None and manifest.state == "running":
        if overwrite and not manifest.overwriting:
            return Found(None)
        return _unfinished(layout, manifest)
    if overwrite:
        return Found(None)
    if not layout.sign.exists():
        if manifest is None and not _nothing_to_lose(layout):
            raise FingerprintMismatchError(
                f"{layout.folder} holds rows of a run, but no manifest.json that says of which job",
                "put the file back, or start afresh with --overwrite",
            )
        return Found(None)
    if manifest is None:
        return Found(_restored(layout, fingerprint), finished=True)
    if not _is_output_of(layout, manifest):
        raise _foreign(layout.out)
    _check_form(layout, manifest)
    _check_files(layout)
    return Found(manifest, finished=True)


def check_folder(layout: Layout) -> None:
    """Raise OutputUnwritableError where the checkpoint folder is one that others fill: names that
    runs use are taken, and no run was ever here."""
    if layout.door_owners.exists():
        return
    with suppress(FingerprintMismatchError):
        if Manifest.read(layout.manifest) is not None:
            return  # copied from elsewhere, without what locks it
    names = [path.name for path in layout.used if path.exists()]
    if names:
        raise OutputUnwritableError(
            f"{layout.folder} is no checkpoint folder, and holds {', '.join(names)} of its own",
            "name a new folder with --checkpoint-dir, or one of a run",
        )


def _nothing_to_lose(layout: Layout) -> bool:
    """No finished row, no saved token, no output: an earlier run was refused or stopped at once."""
    kept = _has_saved_tokens(layout) or list_parts(layout.parts) or layout.sign.exists()
    return not kept


def _has_saved_tokens(layout: Layout) -> bool:
    return any(path.match(SAVED_TOKENS) for path in layout.journals_and_tokens())


def holds_no_completion(layout: Layout) -> bool:
    """Whether all that runs of the whole job left are failed rows: nothing is lost with them."""
    manifest = Manifest.read(layout.manifest)
    if manifest is None or layout.shards_begun():
        return False
    if manifest.is_complete:
        totals = manifest.totals
        return totals is not None and totals.ok == 0 and _is_output_of(layout, manifest)
    if layout.target.exists() or _has_saved_tokens(layout):
        return False
    found = [part_summary(path) for path in list_parts(layout.parts)]
    return all(sum(part.errors.values()) >= part.rows for part in found)


def discard_work(layout: Layout) -> None:
    """Remove parts, journals, saved tokens and all that shards had; the manifest and the output
    stay. Only for whoever holds the job while no shard is at work."""
    remove_all([*list_parts(layout.parts), *layout.whole.own_journals_and_tokens()])
    remove_all(matching(layout.damaged, "part-*"))
    remove_trees([shard.work for shard in layout.shards_begun()])
    for folder in (layout.shards, layout.damaged):
        with suppress(OSError):  # not there, or it holds what is somebody else's
            folder.rmdir()


def has_leftovers(layout: Layout) -> bool:
    """Whether a run died between the finished manifest and the removal of its parts."""
    begun = bool(matching(layout.folder, JOURNALS)) or layout.shards.exists()
    return begun or bool(list_parts(layout.parts))


def _is_output_of(layout: Layout, manifest: Manifest) -> bool:
    """Whether the file there is the one that the finished job wrote, copied or touched perhaps."""
    if manifest.form:
        layout = replace(layout, form=Form(**manifest.form))
    with suppress(OSError):  # a folder that is no output
        if manifest.output == output_identity(layout.sign):
            return True
    return written_rows(layout, manifest.job_id) == manifest.total_rows


def not_as_written(layout: Layout, manifest: Manifest) -> tuple[str, str] | None:
    """Of a finished job whose output is there: what to say where it is not what the job wrote."""
    if lacks := what_lacks(layout.target):
        return lacks
    if not _is_output_of(layout, manifest):
        text = f"{layout.out} was changed since its job was complete, or is another file"
        return text, "put it back, or compute it all again with --overwrite"
    return None


def _check_form(layout: Layout, manifest: Manifest) -> None:
    """Raise FingerprintMismatchError where a finished output is of another format."""
    lines = fingerprint_diff(
        Form.recorded(manifest.form, layout.out).to_dict(), layout.form.to_dict()
    )
    if lines:
        raise FingerprintMismatchError(
            f"{layout.out} is complete, in another format:\n  " + "\n  ".join(lines),
            "`batchgen export` converts it; --overwrite computes it again",
        )


def _check_files(layout: Layout) -> None:
    """Raise FingerprintMismatchError where a finished output is a folder that lost a file."""
    if lacks := what_lacks(layout.target):
        message, hint = lacks
        raise FingerprintMismatchError(message, hint)


def _restored(layout: Layout, fingerprint: Mapping[str, Any]) -> Manifest:
    """The manifest from the output's own footer, where somebody removed the checkpoint folder."""
    manifest = None if layout.form.kind == "jsonl" else footer_manifest(layout.sign)
    if manifest is None or manifest.total_rows is None:
        raise _foreign(layout.out)
    manifest.form = layout.form.to_dict()
    manifest.check_fingerprint(fingerprint, layout.out)
    manifest.state = "complete"
    _check_files(layout)
    try:
        manifest.totals = verified_totals(layout.target, manifest.total_rows)
    except BatchgenError:  # rows were taken out, and what did it kept the footer, as pyarrow does
        raise _foreign(layout.out) from None
    return manifest


def _unfinished(layout: Layout, manifest: Manifest) -> Found:
    return Found(manifest, written=check_target(layout, manifest))


def check_target(layout: Layout, manifest: Manifest) -> int | None:
    """Raise FingerprintMismatchError where an output is there, while the job runs, that is neither
    its own nor one that it may replace. The rows of its own; None: it is not written yet."""
    if not is_there(layout.sign):
        return None
    written = written_rows(layout, manifest.job_id)
    if written is not None:
        return written
    replaced = manifest.replaces and written_rows(layout, manifest.replaces) is not None
    if not manifest.overwriting and not replaced:
        raise _foreign(layout.out)
    return None


def _foreign(out: Place) -> FingerprintMismatchError:
    return FingerprintMismatchError(
        f"{out} exists and was not written by this job, or was changed since",
        "give another --out, or --overwrite to replace it (it stays until the new one is whole)",
    )


def sweep(layout: Layout) -> None:
    """Remove what a dead run had in hand: temporary files, and uploads that would be billed. Only
    for whoever holds the job."""
    for folder, begin in layout.written_folders:
        remove_stale(folder, begin)
    if layout.shard is not None:
        return
    target = layout.target
    remove_stale(target.parent, target.name, whole=True)  # other jobs' names may begin so
    if isinstance(target, RemotePath) and layout.manifest.exists():
        abort_uploads(target)  # a job that begins now has none, and boto3 is large
