"""One writer for one output: a lock, a claim with an owner, and a fence.

    lock            flock'ed by the owner for as long as it lives (where the file system can; an
                    object store cannot)
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
from batchgen.job.locking.claims import STALE_SECONDS, claims_of
from batchgen.job.locking.owner import Liveness, Owner, liveness, this_process
from batchgen.job.stopping.stop_check import StopCheck, never
from batchgen.job.stores.files import make_folder, unwritable
from batchgen.job.stores.places import Place

__all__ = ["HEARTBEAT_SECONDS", "OutputLock", "current_owner", "heartbeat_age", "is_held"]

HEARTBEAT_SECONDS = 10.0
_POLL_SECONDS = 0.5
_MOMENT_SECONDS = 0.02
_MOMENTS = 100
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class OutputLock:
    """Held from `acquire` to `release`. `out` names what is held in messages; `name` tells several
    locks in one folder apart."""

    def __init__(self, folder: Place, out: Place | str, run_id: str, name: str = "") -> None:
        self._folder = folder
        self._name = name
        self._out = out
        self._run_id = run_id
        self._claims = claims_of(folder, name)
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
        check_stop: StopCheck = never,
    ) -> None:
        """Become the owner. Modes fail and skip: OutputHeldError at once; wait: once free.

        `check_stop` is called while it waits; what it raises ends the waiting.
        """
        make_folder(self._folder)
        deadline = None if timeout is None else time.monotonic() + timeout
        moments = 0
        while (holder := self._try()) is not None:
            check_stop()
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
        if self._owner is None or not self._claims.is_newest(self._owner):
            other = current_owner(self._folder, self._name)
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
                self._claims.replace(replace(self._owner, released=True))
        self._owner = None
        self._unlock()

    def _try(self) -> Owner | None:
        """Take the lock and claim the next attempt; the owner that prevents it otherwise."""
        holder = self._in_the_way(self._flock())
        if holder is None:
            self._claim()
        else:
            self._unlock()
        return holder

    def _in_the_way(self, locked: bool | None) -> Owner | None:
        owner = current_owner(self._folder, self._name)
        if owner is not None and not owner.released:
            return owner if self._prevents(owner, locked) else None
        if locked is False:  # between another process's flock and its claim
            return Owner("this host", "", 0, 0, "?", 0, time.time())
        return None

    def _prevents(self, owner: Owner, locked: bool | None) -> bool:
        state = _liveness(self._folder, owner)
        if state is Liveness.DEAD:
            return False
        if state is Liveness.ALIVE:
            return locked is not True
        return locked is False or _is_heard(self._claims.age(owner.attempt))

    def _flock(self) -> bool | None:
        """True: locked. False: someone else has it. None: this file system, or store, cannot."""
        if not isinstance(self._folder, Path):
            return None
        path = self._folder / f"lock{self._name}"
        with unwritable("the lock", path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
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
        """Create the next attempt's claim exclusively; those before the last two are removed."""
        while True:
            attempts = self._claims.attempts()
            owner = this_process(self._run_id, max(attempts, default=0) + 1)
            if self._claims.create(owner):
                if max(self._claims.attempts(), default=0) == owner.attempt:
                    break
                self._claims.withdraw(owner)  # an old number, removed since they were listed
        self._owner = owner
        self._claims.sweep(sorted(attempts)[:-1])

    def _beat(self) -> None:
        owner = self._owner
        while owner is not None and not self._stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                self._claims.beat(owner)


def current_owner(folder: Place, name: str = "") -> Owner | None:
    """Whoever claimed the output last (perhaps dead, perhaps released); None: nobody ever."""
    claims = claims_of(folder, name)
    attempt = max(claims.attempts(), default=0)
    return claims.read(attempt) if attempt else None


def is_held(folder: Place) -> bool:
    """Whether the last claim's process is alive, as far as can be seen without the lock."""
    owner = current_owner(folder)
    if owner is None or owner.released:
        return False
    state = _liveness(folder, owner)
    if state is Liveness.UNKNOWN:
        return _is_heard(heartbeat_age(folder, owner))
    return state is Liveness.ALIVE


def heartbeat_age(folder: Place, owner: Owner) -> float:
    """Seconds since the owner's heartbeat, by the clock of the file system or store that has it."""
    return claims_of(folder).age(owner.attempt)


def _is_heard(age: float) -> bool:
    """Whether a heartbeat is of now. One that lies ahead came before the clock went back: who lives
    has shown it since, and who is dead would hold the output until the clock is there again."""
    return abs(age) < STALE_SECONDS


def _liveness(folder: Place, owner: Owner) -> Liveness:
    return liveness(owner, hosts_are_unique=isinstance(folder, Path))
