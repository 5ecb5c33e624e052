"""Claims of an output, one a file or object: `owners/7.json` is whose attempt was the seventh.

A claim appears whole or not at all and its number is given once. What its owner writes last is its
heartbeat: the time of the file or object, by the clock of the file system or the store.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from batchgen.job.locking.owner import Owner
from batchgen.job.stores.failures import ChangedError, StoreError
from batchgen.job.stores.files import make_folder, unwritable
from batchgen.job.stores.places import Place, names_in, remove_all
from batchgen.job.stores.remote_path import RemotePath, Version

__all__ = ["STALE_SECONDS", "Claims", "claims_of", "clock_of"]

STALE_SECONDS = 60.0
"""A silent owner that cannot be looked at is taken for dead after this long."""


_KEPT = 16


class Claims(Protocol):
    """Of one name in one folder."""

    def attempts(self) -> list[int]:
        """Numbers of the claims that are there, in any order."""

    def read(self, attempt: int) -> Owner | None:
        """The claim of that number; None: it is not there."""

    def create(self, owner: Owner) -> bool:
        """Claim the owner's number; False where somebody has it."""

    def replace(self, owner: Owner) -> None:
        """Write the owner's own claim again."""

    def beat(self, owner: Owner) -> None:
        """Show that the owner lives."""

    def age(self, attempt: int) -> float:
        """Seconds since its heartbeat."""

    def is_newest(self, owner: Owner) -> bool:
        """Whether the highest claim is this one, also where the folder was removed meanwhile and
        another process counts anew."""

    def withdraw(self, owner: Owner) -> None:
        """Remove the owner's own claim."""

    def sweep(self, old: list[int]) -> None:
        """Remove claims of these numbers, and what was left of unfinished ones."""


def claims_of(folder: Place, name: str = "") -> Claims:
    """Those in `folder`; `name` tells several locks there apart."""
    if isinstance(folder, RemotePath):
        return ObjectClaims(folder, name)
    return FileClaims(folder, name)


def clock_of(probe: Place) -> float:
    """Now, by the clock that stamps files where the file `probe` lies: that of the server, where
    they are another machine's. This machine's, where it may not be touched, and for a store."""
    if isinstance(probe, Path):
        with suppress(OSError):
            os.utime(probe)
            return probe.stat().st_mtime
    return time.time()


class FileClaims:
    """On a file system."""

    def __init__(self, folder: Path, name: str) -> None:
        self._owners = folder / f"owners{name}"
        self._probe = folder / f"lock{name}"

    def attempts(self) -> list[int]:
        """Numbers of the claims that are there."""
        return _numbers(self._owners)

    def read(self, attempt: int) -> Owner | None:
        """The claim of that number; None: it is not there."""
        return Owner.read(self._path(attempt), attempt)

    def create(self, owner: Owner) -> bool:
        """Make the claim appear whole; False where it exists already."""
        make_folder(self._owners)
        path = self._path(owner.attempt)
        whole = _new_claim(path)
        with unwritable("the claim", path):
            whole.write_text(owner.to_json())
            try:
                os.link(whole, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                return _open_exclusively(path, owner.to_json())
            finally:
                whole.unlink(missing_ok=True)
        return True

    def replace(self, owner: Owner) -> None:
        """Change a claim in one step: an empty one, after a kill or on a full disk, would be
        nobody's, and hold its output until it is stale."""
        path = self._path(owner.attempt)
        whole = _new_claim(path)
        try:
            whole.write_text(owner.to_json())
            whole.replace(path)
        finally:
            whole.unlink(missing_ok=True)

    def beat(self, owner: Owner) -> None:
        """Touch it."""
        os.utime(self._path(owner.attempt))

    def age(self, attempt: int) -> float:
        """By the clock of the file system that has both files."""
        try:
            beat = self._path(attempt).stat().st_mtime
        except FileNotFoundError:
            return STALE_SECONDS
        return clock_of(self._probe) - beat

    def is_newest(self, owner: Owner) -> bool:
        """Whether the highest claim is this one and its own."""
        highest = max(self.attempts(), default=0) == owner.attempt
        return highest and _is_same(self.read(owner.attempt), owner)

    def withdraw(self, owner: Owner) -> None:
        """Remove the owner's own claim."""
        self._path(owner.attempt).unlink(missing_ok=True)

    def sweep(self, old: list[int]) -> None:
        """Remove claims of these numbers, and unfinished ones."""
        remove_all([*map(self._path, old), *self._owners.glob(".*.new")])

    def _path(self, attempt: int) -> Path:
        return self._owners / f"{attempt}.json"


class ObjectClaims:
    """In an object store: created only where there is none, and replaced only as the owner left it.

    A listing may lag behind, a question for one object does not: that it owns the output an owner
    knows by the next number not being there.
    """

    def __init__(self, folder: RemotePath, name: str) -> None:
        self._owners = folder / f"owners{name}"
        self._probe = folder / f"lock{name}"
        self._version: Version | None = None
        self._lost = self._released = False
        self._writing = threading.Lock()
        self._met: set[int] = set()

    def attempts(self) -> list[int]:
        """Numbers of the claims that are there: a listing, and what it may not show yet."""
        found = [*self._met, *_numbers(self._owners)]
        while found and self._path(max(found) + 1).is_file():
            found.append(max(found) + 1)
        return found

    def read(self, attempt: int) -> Owner | None:
        """The claim of that number; None: it is not there."""
        return Owner.read(self._path(attempt), attempt)

    def create(self, owner: Owner) -> bool:
        """Make the claim appear; False where it exists already."""
        try:
            self._version = self._path(owner.attempt).create(owner.to_json().encode())
        except FileExistsError:
            self._met.add(owner.attempt)
            return False
        return True

    def replace(self, owner: Owner) -> None:
        """Change the claim as this process left it. Raises OSError where it is another's by now."""
        with self._writing:  # a heartbeat that comes late must not undo the release
            if self._version is None or self._lost or self._released:
                raise FileNotFoundError(f"{self._path(owner.attempt)} is not this process's")
            data = owner.to_json().encode()
            try:
                self._version = self._path(owner.attempt).replace_version(data, self._version)
            except ChangedError as error:
                self._lost = True
                raise FileNotFoundError(str(error)) from error
            self._released = owner.released

    def beat(self, owner: Owner) -> None:
        """Write it again: the store's clock stamps it. A store that is away is asked later."""
        with suppress(StoreError):
            self.replace(owner)

    def age(self, attempt: int) -> float:
        """By the store's clock, which stamps both objects."""
        try:
            beat = self._path(attempt).stat().st_mtime
        except FileNotFoundError:
            return STALE_SECONDS
        self._probe.write_bytes(b"")
        return self._probe.stat().st_mtime - beat

    def is_newest(self, owner: Owner) -> bool:
        """Whether nobody has the next number, and the claim was its own at the last heartbeat."""
        return not self._lost and not self._path(owner.attempt + 1).is_file()

    def withdraw(self, owner: Owner) -> None:
        """Remove the owner's own claim."""
        self._path(owner.attempt).unlink()

    def sweep(self, old: list[int]) -> None:
        """Remove claims of these numbers, but not the latest: a listing that lags must not show
        numbers as the highest behind which others were removed."""
        remove_all(map(self._path, old[:-_KEPT]))

    def _path(self, attempt: int) -> RemotePath:
        return self._owners / f"{attempt}.json"


def _numbers(owners: Place) -> list[int]:
    names = names_in(owners)
    return [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()]


def _is_same(found: Owner | None, owner: Owner) -> bool:
    return found is not None and (found.run_id, found.since) == (owner.run_id, owner.since)


def _new_claim(path: Path) -> Path:
    """A name, used by nobody else, under which a claim is written before it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new")


def _open_exclusively(path: Path, text: str) -> bool:
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
