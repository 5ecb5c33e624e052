"""One input that lies in an object store, behind https:// or on the hub: read by ranges, and the
same version from its first byte to its last."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from batchgen.errors import FingerprintMismatchError, InputUnreadableError
from batchgen.job.stores.failures import ChangedError, StoreError
from batchgen.job.stores.ranged_file import Fetch, RangedFile
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["RemoteInput", "object_input", "reading"]

_BLOCKS_AHEAD = 3
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteInput:
    """`name` is the address as it may be shown, `version` what tells it from any other content."""

    name: str
    size: int
    version: str
    fetch: Fetch

    def open(self) -> BinaryIO:
        """From the beginning to the end, the next blocks fetched meanwhile."""
        file = RangedFile(self._checked, self.size, ahead=_BLOCKS_AHEAD)
        return cast(BinaryIO, io.BufferedReader(file, _BUFFER_BYTES))

    def ranges(self) -> RangedFile:
        """Only what is asked for: a reader of columns."""
        return RangedFile(self._checked, self.size)

    def head(self, size: int) -> bytes:
        """The first bytes."""
        return self._checked(0, min(size, self.size)) if self.size else b""

    def _checked(self, start: int, stop: int) -> bytes:
        with reading(self.name):
            return self.fetch(start, stop)


def object_input(path: RemotePath) -> RemoteInput:
    """An object. Raises FileNotFoundError, InputUnreadableError."""
    try:
        found = path.stat()
    except StoreError as error:
        raise _unreadable(str(path), error.reason) from None

    def fetch(start: int, stop: int) -> bytes:
        return path.read_range(start, stop, found.version)

    return RemoteInput(str(path), found.st_size, found.etag, fetch)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raises InputUnreadableError where it cannot be read, FingerprintMismatchError where it is no
    longer what it was when the run began."""
    try:
        yield
    except ChangedError:
        raise FingerprintMismatchError(
            f"the input {name} changed while it was read",
            "finished rows are kept: restore it and run the same command again, or give another "
            "--out for the new input",
        ) from None
    except FileNotFoundError:
        raise _unreadable(name, "it is not there, or not any more") from None
    except StoreError as error:
        raise _unreadable(name, error.reason) from None


def _unreadable(name: str, reason: str) -> InputUnreadableError:
    hint = "check its name and your credentials, then run the same command again"
    return InputUnreadableError(f"input {name}: {reason}", hint)
