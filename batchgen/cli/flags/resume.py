"""The flags of `run` that say what is kept of its work, and what a second run does with it."""

from __future__ import annotations

import click

from batchgen.cli.flags.flag import flag, flag_group
from batchgen.cli.flags.place import PLACE

__all__ = ["resume_options"]

resume_options = flag_group(
    "Resume",
    flag("--checkpoint-dir", type=PLACE, metavar="DIR", show_default="OUT.ckpt",
         help="Where work in progress lives."),
    flag("--checkpoint-every", type=click.IntRange(min=1), default=1000, metavar="ROWS",
         help="Most finished rows a crash can cost."),
    flag("--checkpoint-seconds", type=click.FloatRange(0, min_open=True), default=30.0,
         metavar="S", help="Most seconds between checkpoints."),
    flag("--overwrite", is_flag=True, core=True,
         help="Start over; an old output stays until the end."),
    flag("--shard", metavar="I/N", core=True, show_default=False,
         help="Only rows I modulo N; then `merge`."),
    flag("--join", is_flag=True, core=True,
         help="Share the job: others may join; the last merges."),
    flag("--join-pieces", type=click.IntRange(min=1), default=64, metavar="N",
         help="Pieces that processes claim; the first one's count holds."),
    flag("--retry", type=click.Choice(["failed", "truncated"]), core=True,
         help="Compute failed (or cut) rows again, keep others."),
    flag("--incremental", is_flag=True, core=True,
         help="Add the input's new rows to a finished output."),
    flag("--lock", type=click.Choice(["wait", "fail", "skip"]), default="fail",
         help="When another run holds the output."),
    flag("--grace", type=click.FloatRange(min=0), default=20.0, metavar="S",
         help="Seconds to save work in after the first signal."),
    flag("--time-limit", metavar="TIME", core=True, show_default="Slurm's end",
         help="Save and exit 75 by then: 60s, 10m, 2h, HH:MM:SS, D-HH:MM:SS."),
    flag("--on-signal", type=click.Choice(["exit", "wait"]), default="exit",
         help="After saving: exit with 75, or free the device and sleep until killed."),
)  # fmt: skip
