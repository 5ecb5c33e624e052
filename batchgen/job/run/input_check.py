"""Whether the input is still the one that earlier runs answered."""

from __future__ import annotations

from batchgen.counts import counted
from batchgen.errors import FingerprintMismatchError
from batchgen.job.input.reader import Reader
from batchgen.job.input.rereading import verify
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.run.mended_input import Mended
from batchgen.job.storage.layout import Layout, list_parts
from batchgen.job.storage.manifest import Manifest
from batchgen.job.storage.parts import known_summary
from batchgen.job.stores.places import Place

__all__ = [
    "check_begun_input",
    "check_finished_input",
    "check_limit",
    "check_resumed_input",
    "has_grown",
]

_HINT = "give another --out, or --overwrite to start afresh"


def check_resumed_input(checkpoint: InputCheckpoint | None, reader: Reader) -> None:
    """Before anything is computed: the rows read so far must be those on record.

    Sources with equal names, sizes and times are taken for unchanged. Raises
    FingerprintMismatchError.
    """
    if checkpoint is not None and list(checkpoint.sources) != reader.identity():
        verify(reader, checkpoint)


def check_begun_input(manifest: Manifest, reader: Reader, mended: Mended) -> None:
    """The same of a job that is not finished, some of whose failed rows may be `mended`."""
    try:
        check_resumed_input(manifest.input, reader)
    except FingerprintMismatchError as changed:
        mended(manifest, changed)


def check_limit(layout: Layout, manifest: Manifest, limit: int | None) -> None:
    """Before anything is computed: no row that is done may lie past `limit`, for an output has no
    place for it. Raises FingerprintMismatchError."""
    if limit is None:
        return
    last = max((_last_row(path, manifest.job) for path in list_parts(layout.parts)), default=-1)
    if last >= limit:
        text = f"row {last:,} of {layout.out} is done, and --limit {limit} asks for fewer rows"
        hint = (
            f"give another --out, or --limit {last + 1} or more; --overwrite discards what is done"
        )
        raise FingerprintMismatchError(text, hint)


def _last_row(part: Place, job: str) -> int:
    """-1 where it counts for nothing."""
    summary = known_summary(part)
    return summary.last if summary is not None and summary.job == job else -1


def check_finished_input(
    manifest: Manifest, reader: Reader, limit: int | None, mended: Mended
) -> None:
    """A rerun of a finished job asks for the rows that the output has. Raises
    FingerprintMismatchError where it asks for others."""
    rows, recorded = manifest.total_rows or 0, manifest.input
    if not _same_rows(rows, manifest.facts.get("limit"), limit):
        raise FingerprintMismatchError(
            f"the output holds {counted(rows, 'row')}, and --limit {limit} asks for other ones"
            if limit is not None
            else f"the output holds only the first {counted(rows, 'row')}, by --limit",
            _HINT
            if limit is not None and limit < rows
            else f"--incremental adds the rest; or {_HINT}",
        )
    if recorded is None or list(recorded.sources) == reader.identity():
        return
    try:
        more = verify(reader, recorded)
    except FingerprintMismatchError as changed:
        mended(manifest, changed)
        return
    if more and (limit is None or limit > rows):
        raise FingerprintMismatchError(
            f"the input has more rows than when {counted(rows, 'row was', 'rows were')} answered",
            f"--incremental computes the rows that came since; or {_HINT}",
        )


def has_grown(manifest: Manifest, reader: Reader, limit: int | None, mended: Mended) -> bool:
    """Whether the input of a finished job has more rows by now, behind those that it had.

    Raises FingerprintMismatchError where its first rows are not the ones that were answered.
    """
    rows, recorded = manifest.total_rows or 0, manifest.input
    if limit is not None and limit < rows:
        text = f"the output holds {counted(rows, 'row')}, and --limit {limit} asks for fewer"
        raise FingerprintMismatchError(text, _HINT)
    if recorded is None:
        return False
    limit_then = manifest.facts.get("limit")
    was_cut = limit_then is not None and rows >= limit_then
    if list(recorded.sources) == reader.identity():
        return was_cut and (limit is None or limit > rows)
    try:
        more = verify(reader, recorded)
    except FingerprintMismatchError as changed:
        more = mended(manifest, changed)
    return (was_cut or more) and (limit is None or limit > rows)


def _same_rows(rows: int, limit_then: int | None, limit_now: int | None) -> bool:
    """Whether `limit_now` asks for the `rows` that `limit_then` gave."""
    if limit_now in (rows, limit_then):
        return True
    whole = limit_then is None or rows < limit_then
    return whole and (limit_now is None or limit_now > rows)
