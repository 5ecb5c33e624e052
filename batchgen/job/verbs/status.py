"""How far the work on an output is, seen from outside while it runs: footers and names only."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import InputUnreadableError
from batchgen.job.arrow_ints import integers
from batchgen.job.ledger.shard_work import all_manifests, furthest_of
from batchgen.job.storage.bitmap import Bitmap
from batchgen.job.storage.journal import saved_tokens
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.lock import current_owner, heartbeat_age, is_held
from batchgen.job.storage.manifest import Manifest
from batchgen.job.storage.parts import list_parts, part_summary, shard_of_part
from batchgen.job.stores.places import Place, arrow_source

__all__ = ["ShardStatus", "Status", "status_of"]


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
    """Read what is there; nothing is locked or changed. Raises InputUnreadableError: no work."""
    layout = Layout(ckpt_dir, out)
    manifest = Manifest.read(layout.manifest)
    if manifest is None:
        raise InputUnreadableError(
            f"no run has begun {out}: {layout.manifest} is not there",
            "check the name, or give --checkpoint-dir as the run did",
        )
    status = Status(str(out), manifest.state, rows_total=manifest.total_rows)
    status.runs = len(manifest.runs)
    if status.rows_total is None and manifest.runs:
        status.rows_expected = manifest.runs[-1].get("rows_expected")
    status.model = manifest.fingerprint.get("model.name", manifest.fingerprint.get("model"))
    status.owner = _owner(layout)
    if manifest.state == "complete" and manifest.totals is not None:
        status.rows_read = None if manifest.input is None else manifest.input.rows_read
        status.rows_done = manifest.totals.rows
        status.errors = manifest.totals.error_codes
        status.last_rows_age_s = _age(layout.target)
    else:
        _look_at_shards(status, layout, manifest)
        _count_parts(status, layout)
        status.state = _state(status)
    return status


def _state(status: Status) -> str:
    owners = [status.owner, *(shard.owner for shard in status.shards)]
    if any(owner is not None and owner["alive"] for owner in owners):
        return "running"
    whole = status.rows_total is not None and status.rows_done >= status.rows_total
    return "mergeable" if whole and status.shards else "stopped"


def _look_at_shards(status: Status, layout: Layout, job: Manifest) -> None:
    """What the shards' own folders tell: owners, totals, saved tokens."""
    manifests = all_manifests(layout, job)
    seen = furthest_of([job, *manifests.values()])
    status.rows_read = None if seen is None else seen.rows_read
    status.inflight_tokens_saved = saved_tokens(layout.folder)
    for other in layout.shards_begun():
        manifest = manifests.get(other.work)
        found = ShardStatus(str(other.shard), "stopped", owner=_owner(other))
        status.shards.append(found)
        status.inflight_tokens_saved += saved_tokens(other.work)
        if manifest is not None:
            status.runs += len(manifest.runs)
            status.rows_total = status.rows_total or manifest.total_rows
            found.state = "done" if manifest.state == "complete" else "stopped"
        if found.owner is not None and found.owner["alive"]:
            found.state = "running"
    if status.rows_total is not None:
        for found, other in zip(status.shards, layout.shards_begun(), strict=False):
            assert other.shard is not None
            found.rows_total = other.shard.num_rows(status.rows_total)


def _count_parts(status: Status, layout: Layout) -> None:
    """Rows and errors of every part, by its footer; rows that two splits share once, by index."""
    errors: Counter[str] = Counter()
    by_shard = {found.shard: found for found in status.shards}
    paths = list_parts(layout.parts)
    splits = {shard_of_part(path).count for path in paths}
    distinct = Bitmap() if len(splits) > 1 else None
    for path in paths:
        try:
            summary = part_summary(path)
            if distinct is not None:
                index = pq.read_table(arrow_source(path), columns=["index"], use_threads=False)[
                    "index"
                ]
                distinct.add_array(integers(index))
        except FileNotFoundError:
            continue
        except (OSError, pa.ArrowException, KeyError, ValueError):
            status.damaged_parts += 1
            continue
        status.parts += 1
        status.rows_done += summary.rows
        errors.update(summary.errors)
        status.last_rows_age_s = _youngest(status.last_rows_age_s, path)
        found = by_shard.get(str(shard_of_part(path)))
        if found is not None:
            found.rows_written += summary.rows
            found.last_rows_age_s = _youngest(found.last_rows_age_s, path)
    if distinct is not None:
        status.rows_done = len(distinct)
    with suppress(FileNotFoundError):
        status.damaged_parts += len(list(layout.damaged.iterdir()))
    status.errors = dict(errors)


def _owner(layout: Layout) -> dict[str, Any] | None:
    """The process that holds the work, or held it last; None: it gave it up."""
    owner = current_owner(layout.work)
    if owner is None or owner.released:
        return None
    return {
        "host": owner.host,
        "pid": owner.pid,
        "run_id": owner.run_id,
        "attempt": owner.attempt,
        "running_s": round(time.time() - owner.since, 3),
        "heartbeat_age_s": round(heartbeat_age(layout.work, owner), 3),
        "alive": is_held(layout.work),
    }


def _youngest(known: float | None, path: Place) -> float | None:
    age = _age(path)
    return age if known is None else known if age is None else min(known, age)


def _age(path: Place) -> float | None:
    try:
        return round(time.time() - path.stat().st_mtime, 3)
    except OSError:
        return None
