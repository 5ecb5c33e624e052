"""`batchgen selftest`: the proof that no row is lost, on the user's own machine."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from batchgen.cli.flags.flag import flag
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS

__all__ = ["selftest"]

_FOLDER = click.Path(file_okay=False, path_type=Path)
_seed = flag("--seed", type=int, default=0, metavar="S", help="Of every random choice.")
_folder = flag(
    "--folder",
    type=_FOLDER,
    metavar="DIR",
    show_default="a temporary one",
    help="Work here, and leave everything there.",
)


@click.group(context_settings=CONTEXT_SETTINGS)
def selftest() -> None:
    """Prove on this machine that no row is lost: exit 0 when everything held, else 1.

    \b
    batchgen selftest crash --kills 20 --faults
    batchgen selftest fuzz --inputs 100000
    batchgen selftest soak --minutes 30
    """


@selftest.command(context_settings=CONTEXT_SETTINGS)
@flag("--kills", type=click.IntRange(0), default=20, metavar="K", help="How many kill -9.")
@flag("--rows", type=click.IntRange(1), default=2000, metavar="N", help="Rows of the input.")
@flag(
    "--model",
    default="built-in",
    metavar="built-in|echo|DIR",
    help="echo answers at once; it tests the job alone.",
)
@flag("--faults", is_flag=True, help="Mix in full disks, torn files, signals, second processes.")
@_seed
@_folder
def crash(folder: Path | None, **plan: Any) -> None:
    """Kill a run at random moments; the output must be what an unbroken run writes."""
    from batchgen.selftest.crash import Crash, CrashPlan

    with _workplace(folder) as path:
        _finish(Crash(Path(path), CrashPlan(**plan), _say).run())


@selftest.command(context_settings=CONTEXT_SETTINGS)
@flag("--inputs", type=click.IntRange(1), default=10_000, metavar="N", help="How many.")
@_seed
@_folder
def fuzz(inputs: int, seed: int, folder: Path | None) -> None:
    """Feed generated bad rows and files to whole jobs; no row may be lost or crash one."""
    from batchgen.selftest.fuzz import Fuzz

    with _workplace(folder) as path:
        _finish(Fuzz(Path(path), inputs, seed, _say).run())


@selftest.command(context_settings=CONTEXT_SETTINGS)
@flag("--minutes", type=click.FloatRange(0), default=10.0, metavar="M", help="How long.")
@flag("--rows", type=click.IntRange(1), default=20_000, help="Rows of the first job.")
@_seed
@_folder
def soak(minutes: float, rows: int, seed: int, folder: Path | None) -> None:
    """Run ever larger jobs, killed and restarted; memory and open files must stay flat."""
    from batchgen.selftest.soak import Soak

    with _workplace(folder) as path:
        _finish(Soak(Path(path), minutes, rows, seed, _say).run())


def _workplace(folder: Path | None) -> Any:
    """A folder as a context: the user's, or one that is removed. SIGTERM ends the children too."""
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    if folder is None:
        return tempfile.TemporaryDirectory(prefix="batchgen-selftest-")
    folder.mkdir(parents=True, exist_ok=True)
    return nullcontext(folder)


def _say(text: str) -> None:
    click.echo(f"batchgen selftest: {text}", err=True)


def _finish(figures: dict[str, Any]) -> None:
    """One JSON line, and the exit code."""
    click.echo(json.dumps(figures))
    click.get_current_context().exit(0 if figures["ok"] else 1)
