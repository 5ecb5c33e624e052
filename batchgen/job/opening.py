"""What an earlier run left for this output, and whether this job may touch it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgen.errors import FingerprintMismatchError
from batchgen.job.manifest import Manifest
from batchgen.job.parts import list_parts
from batchgen.job.provenance import output_identity, written_rows

__all__ = ["Found", "Layout", "decide", "discard_work"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names in and beside the checkpoint folder."""

    folder: Path
    out: Path

    @property
    def target(self) -> Path:
        """The file that is really written: `out`, links followed."""
        return Path(os.path.realpath(self.out))

    @property
    def parts(self) -> Path:
        """Finished rows."""
        return self.folder / "parts"

    @property
    def damaged(self) -> Path:
        """Parts that were not what had been written, set aside."""
        return self.folder / "damaged"

    @property
    def manifest(self) -> Path:
        """The manifest."""
        return self.folder / "manifest.json"

    @property
    def written_folders(self) -> tuple[tuple[Path, str], ...]:
        """(folder, prefix of names) where this job writes temporary files."""
        return (self.folder, ""), (self.parts, ""), (self.target.parent, self.target.name)


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
    return _finished_or_new(layout, manifest)


def _nothing_to_lose(layout: Layout) -> bool:
    """No finished row, no saved token, no output: an earlier run was refused or stopped at once."""
    kept = list_parts(layout.parts) or any(layout.folder.glob("inflight-*.json"))
    return not kept and not layout.target.exists()


def discard_work(layout: Layout) -> None:
    """Remove parts, journals and saved tokens; the manifest and the output stay."""
    for part in list_parts(layout.parts):
        with suppress(OSError):
            part.unlink()
    for pattern in ("begun-*.log", "inflight-*.json"):
        for path in layout.folder.glob(pattern):
            with suppress(OSError):
                path.unlink()
    shutil.rmtree(layout.damaged, ignore_errors=True)


def _finished_or_new(layout: Layout, manifest: Manifest | None) -> Found:
    if not layout.target.exists():
        return Found(None)
    if manifest is not None and (
        manifest.output == output_identity(layout.target)
        or written_rows(layout.target, manifest.job_id) == manifest.total_rows
    ):
        return Found(manifest, finished=True)
    raise _foreign(layout.out)


def _unfinished(layout: Layout, manifest: Manifest) -> Found:
    """An output that is there while the job runs is its own, or one that it may overwrite."""
    if layout.target.exists():
        written = written_rows(layout.target, manifest.job_id)
        if written is not None:
            return Found(manifest, written=written)
        if not manifest.overwriting:
            raise _foreign(layout.out)
    return Found(manifest)


def _foreign(out: Path) -> FingerprintMismatchError:
    return FingerprintMismatchError(
        f"{out} exists and was not written by this job, or was changed since",
        "give another --out, or --overwrite to replace it (it stays until the new one is whole)",
    )
