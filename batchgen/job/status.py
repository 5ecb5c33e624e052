"""How far the work on an output is, seen from outside while it runs: footers and names only."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchgen.errors import InputUnreadableError
from batchgen.job.journal import saved_tokens
from batchgen.job.lock import STALE_SECONDS, current_owner, heartbeat_age
from batchgen.job.manifest import Manifest
from batchgen.job.opening import Layout
from batchgen.job.owner import Liveness, Owner, liveness
from batchgen.job.parts import list_parts, part_summary

__all__ = ["Status", "status_of"]


@dataclass(slots=True)
class Status:
    """`state`: running, stopped (run again to continue) or complete. Ages in seconds."""

    out: str
    state: str
    rows_done: int = 0
    rows_total: int | None = None
    """None until a run has read the input to its end."""
    rows_read: int | None = None
    errors: dict[str, int] = field(default_factory=dict)
    owner: dict[str, Any] | None = None
    last_rows_age_s: float | None = None
    runs: int = 0
    parts: int = 0
    damaged_parts: int = 0
    inflight_tokens_saved: int = 0
    model: Any = None


def status_of(out: Path, ckpt_dir: Path) -> Status:
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
    status.rows_read = None if manifest.input is None else manifest.input.rows_read
    status.model = manifest.fingerprint.get("model.name", manifest.fingerprint.get("model"))
    status.owner = _owner(layout)
    if manifest.state == "complete" and manifest.totals is not None:
        status.rows_done = manifest.totals.rows
        status.errors = manifest.totals.error_codes
        status.last_rows_age_s = _age(layout.target)
    else:
        alive = status.owner is not None and status.owner["alive"]
        status.state = "running" if alive else "stopped"
        _count_parts(status, layout)
    return status


def _count_parts(status: Status, layout: Layout) -> None:
    """Rows and errors of every part, by its footer."""
    errors: Counter[str] = Counter()
    for path in list_parts(layout.parts):
        try:
            summary = part_summary(path)
        except FileNotFoundError:
            continue
        except (OSError, pa.ArrowException, KeyError, ValueError):
            status.damaged_parts += 1
            continue
        status.parts += 1
        status.rows_done += summary.rows
        errors.update(summary.errors)
        status.last_rows_age_s = _age(path)
    with suppress(FileNotFoundError):
        status.damaged_parts += len(list(layout.damaged.iterdir()))
    status.errors = dict(errors)
    status.inflight_tokens_saved = saved_tokens(layout.folder)


def _owner(layout: Layout) -> dict[str, Any] | None:
    """The process that holds the output, or held it last; None: it gave it up."""
    owner = current_owner(layout.folder)
    if owner is None or owner.released:
        return None
    age = heartbeat_age(layout.folder, owner)
    return {
        "host": owner.host,
        "pid": owner.pid,
        "run_id": owner.run_id,
        "attempt": owner.attempt,
        "running_s": round(time.time() - owner.since, 3),
        "heartbeat_age_s": round(age, 3),
        "alive": _alive(owner, age),
    }


def _alive(owner: Owner, age: float) -> bool:
    state = liveness(owner)
    return state is Liveness.ALIVE or (state is Liveness.UNKNOWN and age < STALE_SECONDS)


def _age(path: Path) -> float | None:
    try:
        return round(time.time() - path.stat().st_mtime, 3)
    except OSError:
        return None
