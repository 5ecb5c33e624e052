"""The ways in which a crash test ends or disturbs a run, and how the run may then end."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from batchgen.job.stopping.signals import POLITE_SIGNALS
from batchgen.job.storage.layout import list_parts
from batchgen.job.storage.parts import known_summary
from batchgen.job.stores.places import Place
from batchgen.selftest.child import Child, unready_codes

__all__ = ["KILLED", "Blow", "at_the_end", "chosen_blow", "damage", "rows_in"]

KILLED = -int(signal.SIGKILL)
_UNWRITABLE, _STOPPED = 73, 75
_POINTS = ("part.write", "part.fsync", "part.rename", "part.renamed", "manifest.rename",
           "manifest.renamed", "journal.write")  # fmt: skip
_END_POINTS = ("final.write", "final.fsync", "final.rename", "final.renamed")


@dataclass(frozen=True, slots=True)
class Blow:
    """`fault` is put into the run's environment; `strike` comes once its moment is there.

    `code`: the exit code that it leads to. A run that comes to its end first leaves with 0, and
    one that a fault has not met in time is killed.
    """

    name: str
    code: int
    fault: str = ""
    unready: tuple[int, ...] = ()
    """The codes of a process that is struck while Python itself still starts."""
    strike: Callable[[Child], bool] = Child.kill
    to_the_end: bool = False
    """Whether the run may compute all that is left; else it is stopped after its share."""


def chosen_blow(chosen: random.Random, faults: bool) -> Blow:
    """Mostly a kill at a random moment; with `faults` one in three is something else."""
    if chosen.random() < 0.2:
        at = f"at={chosen.choice(_POINTS)},nth={chosen.randint(1, 3)}"
        return Blow("kill at a write", KILLED, f"kill:{at}")
    if not faults or chosen.random() < 0.6:
        return Blow("kill", KILLED)
    nth = chosen.randint(1, 3)
    at = f"at={chosen.choice(_POINTS)},nth={nth}"
    return chosen.choice(
        [
            Blow("disk full", _UNWRITABLE, f"full:{at}"),
            Blow("read-only", _UNWRITABLE, f"readonly:{at}"),
            Blow("torn part", KILLED, _damaged_and_killed("tear", nth)),
            Blow("flipped bit", KILLED, _damaged_and_killed("flip", nth)),
            _polite(chosen.choice(POLITE_SIGNALS)),
            Blow("second process", KILLED),
        ]
    )


def at_the_end(chosen: random.Random, faults: bool) -> Blow:
    """A blow at the moments when the output appears."""
    at = f"at={chosen.choice(_END_POINTS)}"
    if faults and chosen.random() < 0.3 and "renamed" not in at:
        return Blow("disk full", _UNWRITABLE, f"full:{at}", to_the_end=True)
    return Blow("kill at a write", KILLED, f"kill:{at}", to_the_end=True)


def rows_in(part: Place) -> int:
    """Rows of a finished part; 0 where it is damaged, or gone meanwhile."""
    known = known_summary(part)
    return 0 if known is None else known.rows


def damage(folder: Place, chosen: random.Random) -> int:
    """Tear a finished part, or flip one of its bits, as a bad disk does; rows that it held."""
    parts = list_parts(folder)
    if not parts:
        return 0
    path = chosen.choice(parts)
    rows, data = rows_in(path), bytearray(path.read_bytes())
    if chosen.random() < 0.5:
        del data[chosen.randrange(len(data)) :]
    else:
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    path.write_bytes(bytes(data))
    return rows


def _damaged_and_killed(kind: str, nth: int) -> str:
    """A power loss: the part is there by name, not by content."""
    return f"{kind}:at=part.renamed,nth={nth};kill:at=part.renamed,nth={nth}"


def _polite(signum: signal.Signals) -> Blow:
    def strike(child: Child) -> bool:
        child.signal(signum)
        child.wait(timeout=120)
        return False

    return Blow("polite signal", _STOPPED, unready=unready_codes(signum), strike=strike)
