"""How far the work on an output is, seen from outside while it runs.

Of finished work its manifest tells all, without pyarrow: half of the command's time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchgen.errors import BatchgenError, InputUnreadableError
from batchgen.job.locking.lock import current_owner, heartbeat_age, is_held
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.manifest import Manifest
from batchgen.job.stores.places import Place

__all__ = ["ShardStatus", "Status", "age_of", "owner_of", "status_of"]


@dataclass(slots=True)
class ShardStatus:
    """One shard that came in. `state`: running, stopped, or done (its rows await the merge).

    `rows_written` counts rows that runs of this very shard finished; a shard of another split may
    have finished others of its rows.
    """

    shard: str
    state: str
    rows_total: int | None = None
    rows_written: int = 0
    owner: dict[str, Any] | None = None
    last_rows_age_s: float | None = None


@dataclass(slots=True)
class Status:
    """`state`: running, stopped (run again to continue), mergeable (every row is done, `merge` has
    to write the output) or complete. Ages in seconds."""

    out: str
    state: str
    rows_done: int = 0
    rows_total: int | None = None
    """None until a run has read the input to its end."""
    rows_expected: int | None = None
    """Before that: about so many, by the sizes of its files; None where nobody can tell."""
    rows_read: int | None = None
    errors: dict[str, int] = field(default_factory=dict)
    owner: dict[str, Any] | None = None
    """Of a run of all rows, or a merge."""
    last_rows_age_s: float | None = None
    runs: int = 0
    parts: int = 0
    damaged_parts: int = 0
    inflight_tokens_saved: int = 0
    model: Any = None
    shards: list[ShardStatus] = field(default_factory=list)


def status_of(out: Place, ckpt_dir: Place) -> Status:
    """Read what is there; nothing is locked or changed. Raises InputUnreadableError: no work, or a
    finished output that is not whole."""
    layout = Layout(ckpt_dir, out)
    manifest = Manifest.read(layout.manifest)
    if manifest is None and (finished := _finished(layout)) is not None:
        return finished
    if manifest is None:
        raise InputUnreadableError(
            f"no run has begun {out}: {layout.manifest} is not there",
            "check the name, or give --checkpoint-dir as the run did",
        )
    status = Status(str(out), manifest.state, rows_total=manifest.total_rows)
    status.runs = len(manifest.runs)
    if status.rows_total is None and manifest.runs:
        status.rows_expected = manifest.runs[-1].get("rows_expected")
    status.model = _model_of(manifest)
    status.owner = owner_of(layout)
    if manifest.is_complete and _is_gone(layout.target):
        status.state = "stopped"  # the output was removed, and no part is left: all is to be done
    elif manifest.is_complete and manifest.totals is not None:
        _check_written(layout, manifest)
        status.rows_read = None if manifest.input is None else manifest.input.rows_read
        status.rows_done = manifest.totals.rows
        status.errors = manifest.totals.error_codes
        status.last_rows_age_s = age_of(layout.target, time.time())
    else:
        from batchgen.job.verbs.unfinished import look_at_parts, look_at_shards

        look_at_shards(status, layout, manifest)
        look_at_parts(status, layout)
        status.state = _state(status)
    return status


def _finished(layout: Layout) -> Status | None:
    """Of an output whose checkpoint folder was removed, as may be: its footer tells of it."""
    if _is_gone(layout.target):
        return None
    from batchgen.job.output.output import verified_totals
    from batchgen.job.output.provenance import footer_manifest

    manifest = footer_manifest(layout.target)
    if manifest is None or manifest.total_rows is None:
        return None
    status = Status(str(layout.out), "complete", rows_total=manifest.total_rows)
    try:
        totals = verified_totals(layout.target, manifest.total_rows)
    except BatchgenError:
        return None  # it was changed since
    status.rows_done, status.errors = totals.rows, totals.error_codes
    status.runs, status.model = len(manifest.runs), _model_of(manifest)
    status.last_rows_age_s = age_of(layout.target, time.time())
    return status


def _check_written(layout: Layout, manifest: Manifest) -> None:
    target, written = layout.target, manifest.output or {}
    if not isinstance(target, Path):
        return
    stat = target.stat()
    seen = stat.st_size, stat.st_mtime_ns
    if not target.is_dir() and seen == (written.get("size"), written.get("mtime_ns")):
        return
    from batchgen.job.ledger.opening import not_as_written

    if found := not_as_written(layout, manifest):
        text, hint = found
        raise InputUnreadableError(text, hint)


def _model_of(manifest: Manifest) -> Any:
    return manifest.fingerprint.get("model.name", manifest.fingerprint.get("model"))


def _state(status: Status) -> str:
    owners = [status.owner, *(shard.owner for shard in status.shards)]
    if any(owner is not None and owner["alive"] for owner in owners):
        return "running"
    whole = status.rows_total is not None and status.rows_done >= status.rows_total
    return "mergeable" if whole and status.shards else "stopped"


def owner_of(layout: Layout) -> dict[str, Any] | None:
    """The process that holds the work, or held it last; None: it gave it up."""
    owner = current_owner(layout.work)
    if owner is None or owner.released:
        return None
    return {
        "host": owner.host,
        "pid": owner.pid,
        "run_id": owner.run_id,
        "attempt": owner.attempt,
        "running_s": round(max(0.0, time.time() - owner.since), 3),
        "heartbeat_age_s": round(heartbeat_age(layout.work, owner), 3),
        "alive": is_held(layout.work),
    }


def _is_gone(path: Place) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # it could not be looked at
        return False
    return False


def age_of(path: Place, now: float) -> float | None:
    """Seconds since it was written; None: it is not there."""
    try:
        return round(max(0.0, now - path.stat().st_mtime), 3)
    except OSError:
        return None
