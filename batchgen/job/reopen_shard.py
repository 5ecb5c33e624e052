"""`--retry` and `--incremental` of a shard: the first of an array to come takes the job up again,
the others go on with what it began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchgen.job.joining import at_door, begin_where_none, enter
from batchgen.job.layout import Layout
from batchgen.job.lock import OutputLock
from batchgen.job.manifest import Manifest
from batchgen.job.parts import Columns
from batchgen.job.reopen import Reopened, Reopening, goes_on, look, take_up

__all__ = ["reopen_shard"]


def reopen_shard(
    layout: Layout,
    fingerprint: Mapping[str, Any],
    columns: Columns,
    wanted: Reopening,
    run_id: str,
) -> Reopened:
    """As `reopen.reopen`; whoever comes meanwhile waits at the door.

    Raises OutputHeldError also where shards are at work that were not asked for the same.
    """
    with at_door(layout, run_id):
        _, found = look(layout.whole, fingerprint, wanted)
        done = Reopened(fingerprint)
        if found.manifest is None:
            begin_where_none(layout, fingerprint, False, {}, wanted.label)
        elif not goes_on(found.manifest, wanted):
            done = _take_up_all(layout.whole, fingerprint, columns, wanted, run_id)
        if wanted.incremental:
            _take_up_own(layout, wanted, run_id)
        return done


def _take_up_all(
    layout: Layout,
    fingerprint: Mapping[str, Any],
    columns: Columns,
    wanted: Reopening,
    run_id: str,
) -> Reopened:
    held = enter(layout, run_id)
    try:
        done = take_up(layout, fingerprint, columns, wanted, held)
        if not done.begun:
            _mark(layout, wanted.label, held)
        return done
    finally:
        held.release()


def _mark(layout: Layout, label: str, held: OutputLock) -> None:
    """Nothing is to be taken up: shards that come later must not take up this one's new rows."""
    manifest = Manifest.read(layout.manifest)
    if manifest is not None and manifest.state == "running":
        manifest.reopened = label
        manifest.write(layout.manifest, held.check)


def _take_up_own(layout: Layout, wanted: Reopening, run_id: str) -> None:
    """A shard that is complete is not, where the input has more rows by now."""
    own = Manifest.read(layout.own_manifest)
    if own is None or own.state != "complete" or not wanted.has_grown(own):
        return
    held = enter(layout, run_id)
    try:
        own.state, own.totals, own.total_rows = "running", None, None
        own.write(layout.own_manifest, held.check)
    finally:
        held.release()
