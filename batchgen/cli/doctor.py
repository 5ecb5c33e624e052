"""`batchgen doctor`: what this machine is fit for, and the command that mends what it is not."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from batchgen.cli.flags.flag import flag
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS

__all__ = ["doctor"]


@click.command(context_settings=CONTEXT_SETTINGS)
@flag("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Look at versions, devices, compiled code, memory, disks and caches; changes nothing.

    The exit code is 1 where something would stop every run, else 0. No torch.

    \b
    batchgen doctor
    """
    from batchgen.cli.screen.table import aligned
    from batchgen.report.machine.doctor import examine
    from batchgen.report.machine.finding import State

    found = list(examine())
    bad = [one for one in found if one.state is State.BAD]
    if as_json:
        click.echo(json.dumps({"ok": not bad, "findings": [asdict(one) for one in found]}))
        ctx.exit(1 if bad else 0)
    marks = {State.OK: "", State.ABSENT: "- ", State.WARNING: "! ", State.BAD: "X "}
    lines = aligned(((one.name, marks[one.state] + one.text) for one in found), indent=0)
    for line, one in zip(lines, found, strict=True):
        click.echo(line)
        if one.fix:
            click.echo(f"    mend: {one.fix}")
    click.echo(f"{len(bad)} to mend" if bad else "ready to run")
    ctx.exit(1 if bad else 0)
