"""`batchgen merge`: one output from what its runs finished."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from batchgen.cli.flags.flag import flag
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS
from batchgen.cli.flags.place import PLACE
from batchgen.job.stores.places import Place

__all__ = ["merge"]


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("out", type=PLACE)
@flag("--checkpoint-dir", type=PLACE, help="As given to the runs. [default: OUT.ckpt]")
@flag("--rows", type=click.IntRange(0), help="Rows of the input. [default: as a run counted them]")
@flag("--lock", type=click.Choice(["fail", "wait"]), default="fail", help="If a run is at work.")
@flag("--max-failures", default="0", metavar="N|P%", help="Failed rows beyond this: exit code 3.")
@click.pass_context
def merge(
    ctx: click.Context,
    out: Place,
    checkpoint_dir: Place | None,
    rows: int | None,
    lock: str,
    max_failures: str,
) -> None:
    """Join the shards of OUT into OUT; refuses while rows lack, naming them and their shards.

    \b
    batchgen merge out.parquet
    """
    from batchgen.job.output.name import check_name, check_served
    from batchgen.job.run.summary import FailureLimit
    from batchgen.job.storage.layout import folder_of
    from batchgen.job.stores.hub_output import HubOutput, local_copy
    from batchgen.job.verbs.merge_job import merge_output

    hub, (out, checkpoint_dir) = HubOutput.of(out), local_copy(out, checkpoint_dir)
    limit = FailureLimit.parse(max_failures)
    check_name(out)
    check_served(out)
    report = merge_output(out, folder_of(out, checkpoint_dir), num_rows=rows, lock=lock)
    if hub is not None and isinstance(out, Path) and isinstance(checkpoint_dir, Path):
        from batchgen.job.run.published import send

        send(hub, out, checkpoint_dir)
    code = limit.exit_code(report.errors, report.rows)
    click.echo(json.dumps({"out": str(hub or out), "exit_code": code} | asdict(report)))
    ctx.exit(code)
