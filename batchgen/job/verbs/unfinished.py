"""Work that is not finished, for `status`: its parts' footers and its shards' names only."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress

from batchgen.job.ledger.shard_manifests import all_manifests, furthest_of
from batchgen.job.locking.claims import clock_of
from batchgen.job.storage.layout import SAVED_TOKENS, Layout, list_parts, shard_of_part
from batchgen.job.storage.manifest import Manifest
from batchgen.job.stores.files import read_checked
from batchgen.job.stores.places import Place, matching
from batchgen.job.verbs.part_facts import DistinctRows, facts_of_part
from batchgen.job.verbs.status import ShardStatus, Status, age_of, owner_of

__all__ = ["look_at_parts", "look_at_shards"]


def look_at_shards(status: Status, layout: Layout, job: Manifest) -> None:
    """What the shards' own folders tell: owners, totals, saved tokens."""
    manifests = all_manifests(layout, job)
    seen = furthest_of([job, *manifests.values()])
    status.rows_read = None if seen is None else seen.rows_read
    status.inflight_tokens_saved = _saved_tokens(layout.folder)
    for other in layout.shards_begun():
        manifest = manifests.get(other.work)
        found = ShardStatus(str(other.shard), "stopped", owner=owner_of(other))
        status.shards.append(found)
        status.inflight_tokens_saved += _saved_tokens(other.work)
        if manifest is not None:
            status.runs += len(manifest.runs)
            totals = [n for n in (status.rows_total, manifest.total_rows) if n is not None]
            status.rows_total = max(totals, default=None)  # one with --limit, or before it grew
            found.state = "done" if manifest.is_complete else "stopped"
        if found.owner is not None and found.owner["alive"]:
            found.state = "running"
    if status.rows_total is not None:
        for found, other in zip(status.shards, layout.shards_begun(), strict=False):
            assert other.shard is not None
            found.rows_total = other.shard.num_rows(status.rows_total)
            ended = manifests.get(other.work)
            if found.state == "done" and ended is not None and ended.total_rows is not None:
                fewer = other.shard.num_rows(ended.total_rows) < found.rows_total
                found.state = "stopped" if fewer else "done"


def look_at_parts(status: Status, layout: Layout) -> None:
    """Rows and errors of every part, by its footer; rows that two splits share once, by index."""
    errors: Counter[str] = Counter()
    by_shard = {found.shard: found for found in status.shards}
    paths = list_parts(layout.parts)
    splits = {shard_of_part(path).count for path in paths}
    distinct = DistinctRows() if len(splits) > 1 else None
    now = clock_of(layout.folder / "lock-door")
    for path in paths:
        try:
            rows, part_errors = facts_of_part(path)
            if distinct is not None:
                distinct.add(path)
        except FileNotFoundError:
            continue
        except (OSError, LookupError, ValueError):
            status.damaged_parts += 1
            continue
        status.parts += 1
        status.rows_done += rows
        errors.update(part_errors)
        status.last_rows_age_s = _youngest(status.last_rows_age_s, path, now)
        found = by_shard.get(str(shard_of_part(path)))
        if found is not None:
            found.rows_written += rows
            found.last_rows_age_s = _youngest(found.last_rows_age_s, path, now)
    if distinct is not None:
        status.rows_done = len(distinct)
    with suppress(FileNotFoundError):
        status.damaged_parts += len(list(layout.damaged.iterdir()))
    status.errors = dict(errors)


def _youngest(known: float | None, path: Place, now: float) -> float | None:
    age = age_of(path, now)
    return age if known is None else known if age is None else min(known, age)


def _saved_tokens(folder: Place) -> int:
    """Tokens of rows in flight that a stopped run saved in a checkpoint folder."""
    total = 0
    for path in matching(folder, SAVED_TOKENS):
        data = read_checked(path)
        total += sum(len(ids) for _, _, ids in json.loads(data)) if data else 0
    return total
