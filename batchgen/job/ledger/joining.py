"""Entering a job: one run of all rows (or a merge), or any number of shards, never both.

Entry is serialised by a lock, the job's *door*: while a run of all rows holds it, it checks that no
shard is at work; a shard checks that no such run is. A process that was taken for dead is fenced:
the next attempt is claimed in its place, so that its next commit finds that it has lost the output.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batchgen.errors import OutputHeldError
from batchgen.job.ledger.opening import Found, check_folder, decide, discard_work
from batchgen.job.locking.lease import LeasedLock
from batchgen.job.locking.lock import OutputLock, current_owner
from batchgen.job.stopping.stop_check import StopCheck, never
from batchgen.job.storage.layout import Layout, folder_of
from batchgen.job.storage.manifest import Manifest
from batchgen.job.stores.files import make_folder
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["begin_where_none", "door_held", "enter", "join"]

_DOOR_TIMEOUT_S = 120.0
_DOOR_POLL_S = 0.02
_POLL_S = 0.5


def join(
    layout: Layout,
    run_id: str,
    mode: str,
    settle: Callable[[], object] = lambda: None,
    check_stop: StopCheck = never,
) -> OutputLock:
    """The lock of this run, acquired. `settle` is called right before, while no other process can
    enter.

    With `mode` wait: waits until no other process is in the way. Raises OutputHeldError,
    OutputUnwritableError and what `settle` and `check_stop` raise.
    """
    while True:
        try:
            with door_held(layout, run_id, check_stop):
                return enter(layout, run_id, settle)
        except OutputHeldError:
            if mode != "wait":
                raise
        time.sleep(_POLL_S)


def begin_where_none(
    layout: Layout,
    fingerprint: Mapping[str, Any],
    overwrite: bool,
    facts: Mapping[str, Any],
    reopened: str = "",
) -> Found:
    """For a shard on its way in: the job to work on, begun here where there is none. A run of all
    rows begins its own job once it is in.

    Raises FingerprintMismatchError, and OutputHeldError where beginning anew would discard what a
    live shard does.
    """
    found = decide(layout, fingerprint, overwrite)
    if found.manifest is not None or layout.shard is None:
        return found
    before = Manifest.read(layout.manifest)
    try:
        _refuse_live_shards(layout)
    except OutputHeldError:
        if before is not None and not overwrite:
            before.check_fingerprint(fingerprint, layout.out)
        raise
    discard_work(layout)
    begun = Manifest.begun(fingerprint, facts=dict(facts), overwriting=overwrite, reopened=reopened)
    begun.form = layout.form.to_dict()
    begun.write(layout.manifest)
    return Found(begun)


@contextmanager
def door_held(layout: Layout, run_id: str, check_stop: StopCheck = never) -> Iterator[None]:
    """Hold the job's door. While another process holds it, waits, and calls `check_stop`."""
    check_folder(layout)
    make_folder(layout.folder)
    door = OutputLock(layout.folder, layout.out, run_id, "-door")
    door.acquire("wait", timeout=_DOOR_TIMEOUT_S, poll=_DOOR_POLL_S, check_stop=check_stop)
    try:
        yield
    finally:
        door.release()


def enter(layout: Layout, run_id: str, settle: Callable[[], object] = lambda: None) -> OutputLock:
    """The lock of this run, acquired, while the door is held. See `join`."""
    if layout.shard is None:
        make_folder(layout.target.parent)  # not only when all is computed
        _refuse_live_shards(layout)
    else:
        _refuse_or_fence(layout.whole)
    settle()
    make_folder(layout.parts)
    held = _leased(layout, run_id) or _lock_of(layout, run_id)
    held.acquire()
    return held


def _leased(layout: Layout, run_id: str) -> OutputLock | None:
    """Where this run writes an output in a store, and works on a disk."""
    out = layout.out
    if isinstance(out, RemotePath) and isinstance(layout.folder, Path) and layout.shard is None:
        return LeasedLock(layout.work, folder_of(out), out, run_id)
    return None


def _refuse_live_shards(layout: Layout) -> None:
    for shard in layout.shards_begun():
        _refuse_or_fence(shard)


def _refuse_or_fence(other: Layout) -> None:
    """OutputHeldError where that run is at work; if it only died there, it is fenced."""
    owner = current_owner(other.work)
    if owner is None or owner.released:
        return
    lock = _lock_of(other, "fence")
    lock.acquire()
    lock.release()


def _lock_of(layout: Layout, run_id: str) -> OutputLock:
    named = layout.out if layout.shard is None else f"{layout.out} (shard {layout.shard})"
    return OutputLock(layout.work, named, run_id)
