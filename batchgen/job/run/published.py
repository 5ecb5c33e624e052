"""A job whose output goes to the Hugging Face hub: made here, then sent there by one commit.

Work in progress and the finished output lie in a local folder. `published.json` in it says which
content was sent; that content may be replaced by the same job (--retry, --incremental), any other
only with --overwrite. A kill at any moment costs nothing: the same command again finds the output
finished, and sends it unless it is there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchgen.errors import FingerprintMismatchError, OutputHeldError, UsageError
from batchgen.job.run.summary import TOO_MANY_FAILURES, Summary
from batchgen.job.spec import JobSpec
from batchgen.job.stores.files import make_folder, write_atomic
from batchgen.job.stores.hub_output import HubOutput, content_ids, local_copy

__all__ = ["run_published", "send"]

_RECORD = "published.json"
_TRIES = 10
_log = logging.getLogger(__name__)
Report = Callable[[Summary], None]


def run_published(
    job: Callable[..., Summary], spec: JobSpec, *, report: Report | None = None, **more: Any
) -> Summary:
    """`job(spec)`; where the output is an address of the hub, the output is sent when it is whole.

    Raises what the job raises; StoreError, FingerprintMismatchError where something else has the
    name there, before anything is computed if it is known by then.
    """
    hub = HubOutput.of(spec.out)
    if hub is None:
        return job(spec, report=report, **more)
    if spec.rows_per_file is not None:
        raise UsageError(
            "--rows-per-file makes a folder, and the hub gets one file", "leave it out"
        )
    out, folder = local_copy(spec.out, spec.checkpoint_dir)
    assert isinstance(out, Path)
    assert isinstance(folder, Path)
    if spec.checkpoint_dir is None and not spec.quiet:
        _log.warning("work in progress for %s is kept in %s (--checkpoint-dir)", hub, folder)
    _refuse_other(hub, out, folder, spec.overwrite)
    told: list[Summary] = []
    summary = job(replace(spec, out=out, checkpoint_dir=folder), report=told.append, **more)
    if spec.shard is None and summary.exit_code in (0, TOO_MANY_FAILURES):
        send(hub, out, folder, overwrite=spec.overwrite)
    summary = summary.updated({"out": str(hub)})
    if report is not None and told:
        report(summary)
    return summary


def send(hub: HubOutput, out: Path, folder: Path, *, overwrite: bool = False) -> None:
    """Make the output the file there, unless it is. Raises StoreError, FingerprintMismatchError,
    and OutputHeldError where others never cease to commit."""
    ids = content_ids(out)
    for _ in range(_TRIES):
        commit, there = hub.look()
        if there not in ids:
            _check_mine(hub, there, folder, overwrite)
            if not hub.send(out, commit):
                continue  # somebody committed something meanwhile: look again
        note = json.dumps({"address": str(hub), "ids": sorted(ids)})
        write_atomic(folder / _RECORD, note.encode(), "published")
        return
    raise OutputHeldError(
        f"others commit to {hub.repo} all the time: {hub.path} was not sent",
        "run the same command again: nothing is computed again",
    )


def _refuse_other(hub: HubOutput, out: Path, folder: Path, overwrite: bool) -> None:
    """Before anything is computed."""
    _, there = hub.look()
    if there is not None and not (out.is_file() and there in content_ids(out)):
        _check_mine(hub, there, folder, overwrite)
    make_folder(out.parent)


def _check_mine(hub: HubOutput, there: str | None, folder: Path, overwrite: bool) -> None:
    if there is None or overwrite or there in _sent(hub, folder):
        return
    raise FingerprintMismatchError(
        f"{hub} exists and was not written by this job, or was changed since",
        "give another --out, or --overwrite to replace it (its history stays in the repository)",
    )


def _sent(hub: HubOutput, folder: Path) -> list[str]:
    """The ids of what this folder's job sent to that address the last time."""
    try:
        found = json.loads((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        return []
    return list(found["ids"]) if found.get("address") == str(hub) else []
