"""`--retry` and `--incremental` of a shard: the first of an array to come takes the job up again,
the others go on with what it began."""

from __future__ import annotations

from batchgen.job.ledger.joining import begin_where_none, door_held, enter
from batchgen.job.ledger.reopen import Reopened, Reopening, take_up
from batchgen.job.locking.lock import OutputLock
from batchgen.job.storage.manifest import Manifest

__all__ = ["reopen_shard"]


def reopen_shard(asked: Reopening) -> Reopened:
    """As `reopen.reopen`; whoever comes meanwhile waits at the door.

    Raises OutputHeldError also where shards are at work that were not asked for the same.
    """
    with door_held(asked.layout, asked.run_id, asked.check_stop):
        _, found = asked.whole.found()
        done = Reopened(asked.fingerprint)
        if found.manifest is None:
            begin_where_none(asked.layout, asked.fingerprint, False, {}, asked.label)
        elif not asked.goes_on(found.manifest):
            done = _take_up_all(asked.whole)
        if asked.incremental:
            _take_up_own(asked)
        return done


def _take_up_all(asked: Reopening) -> Reopened:
    held = enter(asked.layout, asked.run_id)
    try:
        done = take_up(asked, held)
        if not done.begun:
            _mark(asked, held)
        return done
    finally:
        held.release()


def _mark(asked: Reopening, held: OutputLock) -> None:
    """Nothing is to be taken up: shards that come later must not take up this one's new rows."""
    path = asked.layout.manifest
    manifest = Manifest.read(path)
    if manifest is not None and manifest.state == "running":
        manifest.reopened = asked.label
        manifest.write(path, held.check)


def _take_up_own(asked: Reopening) -> None:
    """A shard that is complete is not, where the input has more rows by now."""
    path = asked.layout.own_manifest
    own = Manifest.read(path)
    if own is None or not own.is_complete or not asked.has_grown(own):
        return
    held = enter(asked.layout, asked.run_id)
    try:
        own.state, own.totals, own.total_rows = "running", None, None
        own.write(path, held.check)
    finally:
        held.release()
