"""One writer for one output: a lock, a claim with an owner, and a fence.

    lock            flock'ed by the owner for as long as it lives (where the file system can)
    owners/7.json   claim of attempt 7: host, pid, start time, run; its mtime is the heartbeat

Every acquisition claims the next attempt number by creating its file exclusively. The owner is
whoever has the highest number; all others have lost, whatever they believe, and find out at their
next commit (`check`). So two processes can hold the lock at once only where flock does not reach
(another host) and a heartbeat stopped; even then at most one of them passes the fence from the
moment the newer claim exists.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from batchgen.errors import OutputHeldError
from batchgen.job.files import make_folder, unwritable
from batchgen.job.stop_check import Look, nothing
from batchgen.job.storage.owner import Liveness, Owner, liveness, this_process

__all__ = [
    "HEARTBEAT_SECONDS",
    "STALE_SECONDS",
    "OutputLock",
    "current_owner",
    "heartbeat_age",
    "is_held",
]

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A silent owner on another host is taken for dead after this long."""
_POLL_SECONDS = 0.5
_MOMENT_SECONDS = 0.02
_MOMENTS = 100
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class OutputLock:
    """Held from `acquire` to `release`. `out` names what is held in messages; `name` tells several
    locks in one folder apart."""

    def __init__(self, folder: Path, out: Path | str, run_id: str, name: str = "") -> None:
        self._folder = folder
        self._out = out
        self._run_id = run_id
        self._owners = folder / f"owners{name}"
        self._lock_path = folder / f"lock{name}"
        self._descriptor: int | None = None
        self._owner: Owner | None = None
        self._stop = threading.Event()

    @property
    def attempt(self) -> int:
        """Number of this acquisition; no two ever had the same."""
        assert self._owner is not None, "not acquired"
        return self._owner.attempt

    def acquire(
        self,
        mode: str = "fail",
        timeout: float | None = None,
        poll: float = _POLL_SECONDS,
        look: Look = nothing,
    ) -> None:
        """Become the owner. Modes fail and skip: OutputHeldError at once; wait: once free.

        `look` is called while it waits; what it raises ends the waiting.
        """
        make_folder(self._owners)
        deadline = None if timeout is None else time.monotonic() + timeout
        moments = 0
        while (holder := self._try()) is not None:
            look()
            if not holder.pid and moments < _MOMENTS:  # it is about to tell who it is
                moments += 1
                time.sleep(_MOMENT_SECONDS)
                continue
            late = deadline is not None and time.monotonic() > deadline
            if mode != "wait" or late:
                raise OutputHeldError(
                    f"{self._out} is being written by {holder.describe()}",
                    "wait for it (--lock wait), or stop it; what a dead run held is free by itself",
                )
            time.sleep(poll)
        threading.Thread(target=self._beat, name="batchgen-heartbeat", daemon=True).start()

    def check(self) -> None:
        """The fence: raise OutputHeldError unless this process still owns the output."""
        if not self._is_newest():
            other = current_owner(self._folder, self._owners.name.removeprefix("owners"))
            taker = other.describe() if other else "someone who removed the checkpoint folder"
            raise OutputHeldError(
                f"lost {self._out} to {taker}; this run stops and writes nothing more",
                "its finished rows were kept; let the other run finish",
            )

    def release(self) -> None:
        """Give the output up; the claim stays, marked as released."""
        self._stop.set()
        if self._owner is not None:
            with suppress(OutputHeldError, OSError):
                self.check()
                released = replace(self._owner, released=True)
                _replace(_claim_path(self._owners, released.attempt), released.to_json())
        self._owner = None
        self._unlock()

    def _is_newest(self) -> bool:
        """Whether the highest claim is this one, also where the folder was removed meanwhile and
        another process counts anew."""
        mine = self._owner
        if mine is None or max(_attempts(self._owners), default=0) != mine.attempt:
            return False
        found = Owner.read(_claim_path(self._owners, mine.attempt), mine.attempt)
        return found is not None and (found.run_id, found.since) == (mine.run_id, mine.since)

    def _try(self) -> Owner | None:
        """Take the lock and claim the next attempt; the owner that prevents it otherwise."""
        holder = self._in_the_way(self._flock())
        if holder is None:
            self._claim()
        else:
            self._unlock()
        return holder

    def _in_the_way(self, locked: bool | None) -> Owner | None:
        owner = current_owner(self._folder, self._owners.name.removeprefix("owners"))
        if owner is not None and not owner.released:
            return owner if self._prevents(owner, locked) else None
        if locked is False:  # between another process's flock and its claim
            return Owner("this host", "", 0, 0, "?", 0, time.time())
        return None

    def _prevents(self, owner: Owner, locked: bool | None) -> bool:
        state = liveness(owner)
        if state is Liveness.DEAD:
            return False
        if state is Liveness.ALIVE:
            return locked is not True
        return locked is False or self._age(owner) < STALE_SECONDS

    def _age(self, owner: Owner) -> float:
        """Seconds since the owner's heartbeat, by the file system's clock."""
        return heartbeat_age(self._folder, owner, self._owners.name.removeprefix("owners"))

    def _flock(self) -> bool | None:
        """True: locked. False: someone else has it. None: this file system cannot lock."""
        with unwritable("the lock", self._lock_path):
            self._descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return None
            return False
        return True

    def _unlock(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):  # closing alone leaves it to forked children
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None

    def _claim(self) -> None:
        """Create the next attempt's file exclusively; claims before the last two are removed."""
        while True:
            attempts = _attempts(self._owners)
            owner = this_process(self._run_id, max(attempts, default=0) + 1)
            claim = _claim_path(self._owners, owner.attempt)
            if _create_exclusively(claim, owner.to_json()):
                if max(_attempts(self._owners), default=0) == owner.attempt:
                    break
                claim.unlink(missing_ok=True)  # a number of old, removed since `attempts` was read
        self._owner = owner
        old = [_claim_path(self._owners, attempt) for attempt in sorted(attempts)[:-1]]
        for path in [*old, *self._owners.glob(".*.new")]:
            with suppress(OSError):
                path.unlink()

    def _beat(self) -> None:
        owner = self._owner
        while owner is not None and not self._stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(_claim_path(self._owners, owner.attempt))


def current_owner(folder: Path, name: str = "") -> Owner | None:
    """Whoever claimed the output last (perhaps dead, perhaps released); None: nobody ever."""
    owners = folder / f"owners{name}"
    attempt = max(_attempts(owners), default=0)
    return Owner.read(_claim_path(owners, attempt), attempt) if attempt else None


def is_held(folder: Path, name: str = "") -> bool:
    """Whether the last claim's process is alive, as far as can be seen without the lock."""
    owner = current_owner(folder, name)
    if owner is None or owner.released:
        return False
    state = liveness(owner)
    silent = heartbeat_age(folder, owner, name) >= STALE_SECONDS
    return state is Liveness.ALIVE or (state is Liveness.UNKNOWN and not silent)


def heartbeat_age(folder: Path, owner: Owner, name: str = "") -> float:
    """Seconds since the owner's heartbeat, by the clock of the file system that has both files."""
    claim = _claim_path(folder / f"owners{name}", owner.attempt)
    try:
        beat = claim.stat().st_mtime
    except FileNotFoundError:
        return STALE_SECONDS
    probe = folder / f"lock{name}"
    with suppress(OSError):
        os.utime(probe)
        return probe.stat().st_mtime - beat
    return time.time() - beat


def _claim_path(owners: Path, attempt: int) -> Path:
    return owners / f"{attempt}.json"


def _attempts(owners: Path) -> list[int]:
    try:
        names = os.listdir(owners)
    except FileNotFoundError:
        return []
    return [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()]


def _new_claim(path: Path) -> Path:
    """A name, used by nobody else, under which a claim is written before it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new")


def _replace(path: Path, text: str) -> None:
    """Change a claim in one step: an empty one, after a kill or on a full disk, would be nobody's,
    and hold its output until it is stale."""
    whole = _new_claim(path)
    try:
        whole.write_text(text)
        whole.replace(path)
    finally:
        whole.unlink(missing_ok=True)


def _create_exclusively(path: Path, text: str) -> bool:
    """Make `path` appear whole with that text; False where it exists already."""
    whole = _new_claim(path)
    with unwritable("the claim", path):
        whole.write_text(text)
        try:
            os.link(whole, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return _open_exclusively(path, text)
        finally:
            whole.unlink(missing_ok=True)
    return True


def _open_exclusively(path: Path, text: str) -> bool:
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
