"""Where the journal's records go: a file that grows, or objects that are replaced.

begun-<attempt>.log                  all of it on a disk; in a store its beginning
begun-<segment>-<attempt>.log        what follows, in a store
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from batchgen.job.stores import faults
from batchgen.job.stores.failures import ChangedError, StoreError
from batchgen.job.stores.files import Guard, unwritable, write_atomic
from batchgen.job.stores.places import Place
from batchgen.job.stores.remote_path import RemotePath, Version

__all__ = ["BegunLog", "open_log"]

FLUSH_SECONDS = 2.0
"""At most so long a record of rows begun waits before it is sent to a store."""
_SEGMENT_BYTES = 256 << 10


class BegunLog(Protocol):
    """Takes records until it is closed with a last one."""

    def append(self, records: bytes) -> None:
        """Take records."""

    def close(self, last: bytes) -> None:
        """Take what ends the log, if anything does, and close it."""


def open_log(folder: Place, attempt: int, carried: bytes, guard: Guard) -> BegunLog:
    """The log of an attempt, begun with what is carried over from older ones: durable already."""
    path = folder / f"begun-{attempt:06d}.log"
    if isinstance(path, RemotePath):
        guard()
        return ObjectLog(path, carried)
    write_atomic(path, carried, "journal", guard)
    return FileLog(path)


class FileLog:
    """Appends reach the system at once, unsynced: what a crash of the process needs; a power loss
    costs only counts of attempts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with unwritable("the journal", path):
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append(self, records: bytes) -> None:
        """Write them at once."""
        with unwritable("the journal", self._path):
            faults.reach("journal.write")
            os.write(self._file, records)

    def close(self, last: bytes) -> None:
        """Write the last record and close the file."""
        with suppress(OSError):
            os.write(self._file, last)
        os.close(self._file)


class ObjectLog:
    """A store has no append: the segment that grows is sent again, by a thread of its own.

    The first records go out before `append` returns, so that a row that ends every run it is in is
    known even if it does so at once; later ones within `FLUSH_SECONDS`, which a killed machine
    loses of the counts of attempts. No finished row depends on it.
    """

    def __init__(self, path: RemotePath, carried: bytes) -> None:
        self._first = path
        self._version: Version | None = path.write_bytes(carried)
        self._segment = 0
        self._records = bytearray(carried)
        self._sent = len(carried)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._begun = False
        self._error: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="batchgen-journal", daemon=True)

    def append(self, records: bytes) -> None:
        """Take them; raises what an earlier sending met."""
        faults.reach("journal.write")
        if self._error is not None:
            raise self._error
        with self._lock:
            self._records += records
        if not self._begun:
            self._begun = True
            self._send()
            self._thread.start()

    def close(self, last: bytes) -> None:
        """Send what is left and the last record."""
        self._closing.set()
        if self._begun:
            self._thread.join()
        with self._lock:
            self._records += last
        with suppress(StoreError, ChangedError):  # a run that ended unseen counts as one that died
            self._send()

    def _run(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            try:
                self._send()
            except (StoreError, ChangedError) as error:
                self._error = StoreError(self._path, f"the journal could not be written: {error}")
                return

    def _send(self) -> None:
        with self._sending:
            with self._lock:
                data = bytes(self._records)
            if len(data) == self._sent:
                return
            self._version = self._replaced(data)
            self._sent = len(data)
            if self._sent >= _SEGMENT_BYTES:
                self._next_segment()

    def _replaced(self, data: bytes) -> Version:
        """Only as it was left: a log that was removed, since all is done, must not come back."""
        if self._version is None:
            return self._path.create(data)
        return self._path.replace_version(data, self._version)

    def _next_segment(self) -> None:
        with self._lock:
            del self._records[: self._sent]
        self._segment, self._sent, self._version = self._segment + 1, 0, None

    @property
    def _path(self) -> RemotePath:
        if not self._segment:
            return self._first
        return self._first.with_name(self._first.name.replace("-", f"-{self._segment:04d}-", 1))
