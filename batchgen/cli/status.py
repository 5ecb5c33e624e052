"""`batchgen status`: how far the work on an output is, also while it runs."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from batchgen.cli.flags.flag import flag
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS
from batchgen.cli.flags.place import PLACE
from batchgen.counts import counted
from batchgen.job.stores.places import Place

if TYPE_CHECKING:
    from batchgen.job.verbs.status import ShardStatus, Status

__all__ = ["status"]


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("out", type=PLACE)
@flag("--checkpoint-dir", type=PLACE, help="As given to the run. [default: OUT.ckpt]")
@flag("--json", "as_json", is_flag=True, help="Print one JSON object.")
@flag("--watch", is_flag=True, help="Go on saying so until nobody is at work on it.")
@flag("--every", type=click.FloatRange(min=0.1), default=2.0, metavar="S", help="With --watch.")
def status(
    out: Place, checkpoint_dir: Place | None, as_json: bool, watch: bool, every: float
) -> None:
    """Say how far the work on OUT is; changes nothing.

    \b
    batchgen status out.parquet --json
    batchgen status out.parquet --watch
    """
    from batchgen.job.storage.layout import folder_of
    from batchgen.job.stores.hub_output import local_copy
    from batchgen.job.verbs.status import status_of

    out, checkpoint_dir = local_copy(out, checkpoint_dir)
    while True:
        found = status_of(out, folder_of(out, checkpoint_dir))
        if watch and not as_json and sys.stdout.isatty():
            click.clear()
        click.echo(json.dumps(asdict(found), default=str) if as_json else _as_text(found))
        if not watch or found.state != "running":
            return
        time.sleep(every)


def _as_text(found: Status) -> str:
    total = "" if found.rows_total is None else f" of {found.rows_total:,}"
    if not total and found.rows_expected:
        total = f" of about {found.rows_expected:,}"
    lines = [f"{found.out}: {found.state}", f"  rows done   {found.rows_done:,}{total}"]
    if found.errors:
        named = ", ".join(f"{code} {count:,}" for code, count in sorted(found.errors.items()))
        lines.append(f"  errors      {sum(found.errors.values()):,} ({named})")
    if found.owner is not None:
        state = "alive" if found.owner["alive"] else "dead; the next run takes over"
        place = f"process {found.owner['pid']} on {found.owner['host']}"
        lines.append(f"  owner       {place}, run {found.owner['run_id']} ({state})")
    if found.last_rows_age_s is not None:
        lines.append(f"  last rows   {found.last_rows_age_s:,.0f} s ago")
    if found.inflight_tokens_saved:
        lines.append(f"  in flight   {counted(found.inflight_tokens_saved, 'token')} saved")
    if found.damaged_parts:
        lines.append(f"  damaged     {counted(found.damaged_parts, 'part')} (their rows run again)")
    lines += [_shard_line(shard) for shard in found.shards]
    if found.state == "stopped":
        lines.append("  next        run the same command again to continue")
    if found.state == "mergeable":
        lines.append(f"  next        batchgen merge {found.out}")
    return "\n".join(lines)


def _shard_line(shard: ShardStatus) -> str:
    total = "" if shard.rows_total is None else f" of {shard.rows_total:,}"
    owner = shard.owner
    where = "" if owner is None else f", process {owner['pid']} on {owner['host']}"
    if owner is not None and not owner["alive"]:
        where += " (dead)"
    return f"  shard {shard.shard:<6}{shard.state}, wrote {shard.rows_written:,}{total}{where}"
