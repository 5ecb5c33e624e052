"""Who holds an output: one process of one host, alive, dead or out of sight."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from batchgen.job.stores.places import Place

__all__ = ["Liveness", "Owner", "liveness", "this_process"]


class Liveness(StrEnum):
    """Whether an owner still runs. UNKNOWN: it is on another host, only its heartbeat tells."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Owner:
    """A claim on an output. `machine` tells boots and process namespaces of one host apart;
    `start_ticks` tells a process from a later one with the same id."""

    host: str
    machine: str
    pid: int
    start_ticks: int
    run_id: str
    attempt: int
    since: float
    released: bool = False

    def to_json(self) -> str:
        """The claim file's content."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, path: Place, attempt: int) -> Owner | None:
        """The claim at `path`; one that cannot be parsed belongs to nobody known. None: gone."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(**data)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return cls("?", "?", 0, 0, "?", attempt, 0.0)

    def describe(self) -> str:
        """For messages: which process of which host, since when."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (run {self.run_id}, since {since})"


def this_process(run_id: str, attempt: int) -> Owner:
    """The claim of the calling process."""
    pid = os.getpid()
    ticks = _start_ticks(pid)[1]
    return Owner(socket.gethostname(), _machine(), pid, ticks, run_id, attempt, time.time())


def liveness(owner: Owner, hosts_are_unique: bool = True) -> Liveness:
    """Whether the owner's process runs. A zombie does not; nor does a pid given to another.

    Around a shared file system hosts have names of their own; an object store is open to machines
    anywhere, where `localhost` may be another one that lives.
    """
    if owner.host != socket.gethostname():
        return Liveness.UNKNOWN
    boot, _, namespace = owner.machine.partition("/")
    my_boot, _, my_namespace = _machine().partition("/")
    if boot != my_boot:
        return Liveness.DEAD if hosts_are_unique else Liveness.UNKNOWN
    if namespace != my_namespace:
        return Liveness.UNKNOWN
    state, ticks = _start_ticks(owner.pid)
    alive = state not in ("", "Z", "X") and ticks == owner.start_ticks
    return Liveness.ALIVE if alive else Liveness.DEAD


def _machine() -> str:
    """Boot id and process-id namespace; parts that the system does not tell are empty."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{boot}/{namespace}"


def _start_ticks(pid: int) -> tuple[str, int]:
    """State letter and start time (clock ticks since boot) of a process; ("", 0): no such one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _state_without_proc(pid), 0
    state, *rest = stat[stat.rindex(")") + 2 :].split()
    return state, int(rest[18])


def _state_without_proc(pid: int) -> str:
    """Where there is no /proc (macOS): signal 0 tells whether the process exists."""
    if Path("/proc/self/stat").exists() or pid <= 0:
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "R"
    return "R"
