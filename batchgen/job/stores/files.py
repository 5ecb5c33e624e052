"""Files that appear whole or not at all: temporary file, fsync, rename, fsync of the folder. An
object does so by itself (`uploads`).

Every write that can fail for want of space or permission ends as OutputUnwritableError (73) naming
the file. Modes follow the umask.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchgen.errors import OutputUnwritableError
from batchgen.job.stores import faults
from batchgen.job.stores.places import Place, readable
from batchgen.job.stores.remote_path import RemotePath
from batchgen.job.stores.uploads import UploadedFile, note_version, read_noted, remove_staged

__all__ = [
    "AtomicFile",
    "Guard",
    "atomic_file",
    "checked_name",
    "fsync",
    "fsync_folder",
    "is_there",
    "make_folder",
    "read_checked",
    "read_current",
    "remove_stale",
    "temporary_path",
    "unwritable",
    "write_atomic",
]

Guard = Callable[[], None]
"""Called right before a rename: raises when this process no longer owns the output."""

_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.[0-9a-f]{8}\.tmp$")
_CHECKED = re.compile(r"\.(?P<crc>[0-9a-f]{8})\.[^.]+$")


@contextmanager
def unwritable(what: str, path: Place) -> Iterator[None]:
    """Turn an OSError into OutputUnwritableError: `what` could not be done to `path`."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        text = f"cannot write {what} {path}: {_reason(error)}"
        raise OutputUnwritableError(text, "a file is in its way: name another place") from error
    except OSError as error:
        reason = _reason(error)
        raise OutputUnwritableError(
            f"cannot write {what} {path}: {reason}",
            "free space or give write permission there, then run the same command again: "
            "finished rows are kept",
        ) from error


def _reason(error: OSError) -> str:
    """What the system said, also where Arrow wrapped it in words of its own."""
    text = error.strerror or str(error)
    number = re.search(r"\[errno (\d+)\]", text)
    return os.strerror(int(number[1])) if number else text


def temporary_path(path: Path) -> Path:
    """A name, used by nobody else, under which `path` is written before it is whole."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


class AtomicFile:
    """A file being written beside its final name. `commit` makes it appear; else it is removed.

    `kind` names it in messages and fault points (`part`, `manifest`, `final`, ...).
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.temporary = temporary_path(path)
        self._committed = False

    def __enter__(self) -> AtomicFile:
        return self

    def write(self, data: bytes) -> None:
        """Write the whole content at once."""
        with unwritable(self.kind, self.path):
            faults.reach(f"{self.kind}.write", None)
            descriptor = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)

    def commit(self, guard: Guard | None = None) -> None:
        """Make the content durable, then visible under the final name, then that name durable."""
        with unwritable(self.kind, self.path):
            faults.reach(f"{self.kind}.fsync", self.temporary)
            fsync(self.temporary)
        if guard is not None:
            guard()
        with unwritable(self.kind, self.path):
            faults.reach(f"{self.kind}.rename", self.temporary)
            self._replace(guard)
            self._committed = True
            faults.reach(f"{self.kind}.renamed", self.path)
            fsync_folder(self.path.parent)

    def _replace(self, guard: Guard | None) -> None:
        try:
            os.replace(self.temporary, self.path)
        except FileNotFoundError:
            if guard is not None:
                guard()  # a new owner swept the temporary file away
            raise

    def __exit__(self, *exc: object) -> None:
        if not self._committed:
            with suppress(OSError):
                self.temporary.unlink()


def atomic_file(path: Place, kind: str) -> AtomicFile | UploadedFile:
    """A file or an object that appears whole."""
    return UploadedFile(path, kind) if isinstance(path, RemotePath) else AtomicFile(path, kind)


def write_atomic(path: Place, data: bytes, kind: str, guard: Guard | None = None) -> None:
    """Write `data` as `path`, whole and durable."""
    with unwritable(kind, path), atomic_file(path, kind) as file:
        file.write(data)
        file.commit(guard)


def checked_name(stem: str, data: bytes, suffix: str) -> str:
    """A file name that carries the CRC-32 of the content: one rename commits both."""
    return f"{stem}.{zlib.crc32(data):08x}.{suffix}"


def read_checked(path: Place) -> bytes | None:
    """Content of a file named by `checked_name`; None when it is not what was written."""
    match = _CHECKED.search(path.name)
    if match is None:
        return None
    with readable(path):
        data = path.read_bytes()
    return data if zlib.crc32(data) == int(match["crc"], 16) else None


def is_there(path: Place) -> bool:
    """Whether there is a file or an object of that name; as for `read_current`, an object is then
    replaced only as it is now."""
    return note_version(path) if isinstance(path, RemotePath) else path.exists()


def read_current(path: Place) -> bytes | None:
    """The content, None where there is none. What is then written in its place, by `write_atomic`,
    replaces this version of an object and no other."""
    if isinstance(path, RemotePath):
        return read_noted(path)
    return path.read_bytes() if path.exists() else None


def make_folder(path: Place) -> None:
    """Create a folder and its parents; a folder that cannot be written is refused now. A store has
    none: the first object, the claim, tells whether it may be written."""
    if isinstance(path, RemotePath):
        return
    with unwritable("the folder", path):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            fsync_folder(path.parent)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")


def fsync_folder(folder: Path) -> None:
    """Make names in `folder` durable (where the file system can)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: Place, begin: str = "", *, whole: bool = False) -> int:
    """Remove temporary files that a dead run left for names that begin so, or are just that where
    it is `whole`; their number. Of objects: what it had staged here."""
    if isinstance(folder, RemotePath):
        return remove_staged(folder, begin, whole)
    with readable(folder):
        found = [(entry, _TEMPORARY.match(entry.name)) for entry in folder.iterdir()]
    stale = [
        entry
        for entry, match in found
        if match and match["name"].startswith(begin) and (not whole or match["name"] == begin)
    ]
    for path in stale:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return len(stale)


def fsync(path: Path) -> None:
    """Its content on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
