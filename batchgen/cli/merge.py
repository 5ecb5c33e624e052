"""`batchgen merge`: one output from what its runs finished."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from batchgen.cli.flags import CONTEXT_SETTINGS, flag

__all__ = ["merge"]

_PATH = click.Path(path_type=Path)


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("out", type=_PATH)
@flag("--checkpoint-dir", type=_PATH, help="As given to the runs. [default: OUT.ckpt]")
@flag("--rows", type=click.IntRange(0), help="Rows of the input. [default: as a run counted them]")
@flag("--lock", type=click.Choice(["fail", "wait"]), default="fail", help="If a run is at work.")
def merge(out: Path, checkpoint_dir: Path | None, rows: int | None, lock: str) -> None:
    """Join the finished rows of OUT's runs into OUT; refuses, naming them, while rows lack.

    \b
    batchgen merge out.parquet
    """
    from batchgen.job.merge_job import merge_output

    folder = checkpoint_dir or out.with_name(out.name + ".ckpt")
    report = merge_output(out, folder, num_rows=rows, lock=lock)
    click.echo(json.dumps({"out": str(out)} | asdict(report)))
