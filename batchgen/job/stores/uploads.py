"""Objects that appear whole: staged here, sent in one piece, replaced only as they were known.

A small object is one conditional request, which either counts or does not. A large one is sent in
parts that nobody sees until the last request; what a failed upload leaves behind is billed, so it
is aborted: at once where the process lives, by the next run where it was killed.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import secrets
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from batchgen.errors import OutputHeldError
from batchgen.job.stores import clients, faults
from batchgen.job.stores.failures import ChangedError, asking
from batchgen.job.stores.remote_path import RemotePath, Version

__all__ = ["UploadedFile", "abort_uploads", "note_version", "read_noted", "remove_staged"]

ONE_REQUEST_BYTES = 32 << 20
"""Up to here one request, which can be made conditional; more is sent in parts."""
PART_BYTES = 16 << 20
_SENT_AT_ONCE = 4
_CONDITIONAL = ("manifest", "final")
"""Objects that keep their name from one owner to the next: a writer that was paused, and has lost
the output meanwhile, must not replace what the new owner wrote."""

_log = logging.getLogger(__name__)
_noted: dict[RemotePath, Version | None] = {}
"""The version in which this process last saw an object; None: it was not there."""


def note_version(path: RemotePath) -> bool:
    """Whether the object is there; it will be replaced only as it is now."""
    try:
        _noted[path] = path.stat().version
    except FileNotFoundError:
        _noted[path] = None
    return _noted[path] is not None


def read_noted(path: RemotePath) -> bytes | None:
    """The content, None where there is none; it will be replaced only as it is now."""
    try:
        data, _noted[path] = path.read_versioned()
    except FileNotFoundError:
        _noted[path] = None
        return None
    return data


class UploadedFile:
    """An object being made. `commit` makes it appear; else nothing of it is left.

    `temporary` is a local file to write to, for what does not come as bytes.
    """

    def __init__(self, path: RemotePath, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.temporary = _staging_folder() / f"{_staged(path.parent)}{path.name}.{_letters()}.tmp"
        self._data: bytes | None = None

    def __enter__(self) -> UploadedFile:
        return self

    def write(self, data: bytes) -> None:
        """Take the whole content at once."""
        faults.reach(f"{self.kind}.write", None)
        self._data = data

    def commit(self, guard: Any = None) -> None:
        """Send it. Raises StoreError, and OutputHeldError where another process replaced it."""
        faults.reach(f"{self.kind}.fsync", None if self._data is not None else self.temporary)
        if guard is not None:
            guard()
        faults.reach(f"{self.kind}.rename", None if self._data is not None else self.temporary)
        self._send(guard)
        faults.reach(f"{self.kind}.renamed", self.path)

    def _send(self, guard: Any) -> None:
        if self._data is None and self.temporary.stat().st_size > ONE_REQUEST_BYTES:
            self._send_parts()
            return
        data = self.temporary.read_bytes() if self._data is None else self._data
        if self.kind not in _CONDITIONAL or self.path not in _noted:
            self.path.write_bytes(data)
            return
        try:
            _noted[self.path] = _replaced(self.path, data)
        except (ChangedError, FileExistsError) as error:
            if guard is not None:
                guard()
            raise OutputHeldError(
                f"another process replaced {self.path} meanwhile; this run stops and writes "
                "nothing more",
                "its finished rows were kept; let the other run finish, then run this again",
            ) from error

    def _send_parts(self) -> None:
        import obstore

        try:
            with asking(self.path):
                obstore.put(
                    self.path.store,
                    self.path.key,
                    self.temporary,
                    use_multipart=True,
                    chunk_size=PART_BYTES,
                    max_concurrency=_SENT_AT_ONCE,
                )
        except BaseException:
            abort_uploads(self.path)
            raise
        _noted.pop(self.path, None)

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)


def _replaced(path: RemotePath, data: bytes) -> Version:
    known = _noted[path]
    return path.create(data) if known is None else path.replace_version(data, known)


def abort_uploads(path: RemotePath) -> int:
    """Abort what failed uploads of this object left, where it can be listed: on S3; their number.

    Azure drops parts by itself after a week; on GCS a lifecycle rule does.
    """
    if not path.root.startswith("s3://") or find_spec("boto3") is None:
        return 0
    try:
        return _aborted(path)
    except Exception as error:  # botocore's errors have no common base with the rest
        _log.warning(
            "whether failed uploads of %s are left could not be seen (%s): a lifecycle rule of the "
            "bucket removes them",
            path,
            type(error).__name__,
        )
        return 0


def _aborted(path: RemotePath) -> int:
    bucket = path.root.removeprefix("s3://")
    s3 = clients.s3_session().client("s3", endpoint_url=clients.endpoint() or None)
    listed = s3.list_multipart_uploads(Bucket=bucket, Prefix=path.key)
    mine = [
        upload
        for upload in listed.get("Uploads", ())
        if upload["Key"] == path.key or upload["Key"].startswith(f"{path.key}/part-")
    ]
    for upload in mine:
        s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return len(mine)


def remove_staged(folder: RemotePath, begin: str, whole: bool) -> int:
    """Remove local files in which a dead run had made objects of that folder whose names begin so,
    or are just that where it is `whole`; their number."""
    rest = f".{'[0-9a-f]' * 8}" if whole else "*"
    stale = list(_staging_folder().glob(f"{_staged(folder)}{glob.escape(begin)}{rest}.tmp"))
    for path in stale:
        with suppress(OSError):
            path.unlink()
    return len(stale)


def _staging_folder() -> Path:
    return Path(tempfile.gettempdir())


def _staged(folder: RemotePath) -> str:
    return f"batchgen-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}-"


def _letters() -> str:
    return secrets.token_hex(4)
