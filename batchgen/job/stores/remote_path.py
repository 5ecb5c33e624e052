"""An object, or the objects below a name, with the verbs of pathlib that the ledger uses.

A folder is nothing but the common beginning of names: it is there while something is below it.
Nothing here is kept between calls: each verb is one request, two where its docstring says so.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from batchgen.job.stores.clients import client
from batchgen.job.stores.failures import ChangedError, ask

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from batchgen.job.stores.ranged_file import RangedFile

__all__ = ["ObjectStat", "RemotePath", "Version"]

Version = Mapping[str, str]
"""`e_tag` and `version` of an object: what a conditional write names."""


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """Size in bytes, time of writing by the store's clock, and version."""

    st_size: int
    st_mtime: float
    version: Version

    @property
    def st_mtime_ns(self) -> int:
        """The time in nanoseconds; stores tell whole seconds."""
        return int(self.st_mtime * 1e9)

    @property
    def etag(self) -> str:
        """The entity tag without quotes: another one is another content."""
        return (self.version.get("e_tag") or self.version.get("version") or "").strip('"')


@dataclass(frozen=True, slots=True, order=True)
class RemotePath:
    """`root` is `s3://bucket`; `key` has no slash at its ends, and is empty for the bucket."""

    root: str
    key: str

    def __str__(self) -> str:
        return f"{self.root}/{self.key}"

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.root, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The part behind the last slash."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """What the name is below of."""
        return RemotePath(self.root, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> RemotePath:
        """Beside this one."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> RemotePath:
        """The same with another ending."""
        return self.with_name(self.stem + suffix)

    def match(self, pattern: str) -> bool:
        """Whether the name is of that pattern."""
        return fnmatch.fnmatchcase(self.name, pattern)

    @property
    def store(self) -> ObjectStore:
        """obstore's client of the bucket."""
        return client(self.root)

    def stat(self) -> ObjectStat:
        """Raises FileNotFoundError."""
        import obstore

        return _stat_of(ask(self, lambda: obstore.head(self.store, self.key)))

    def is_file(self) -> bool:
        """Whether there is an object of this very name."""
        with suppress(FileNotFoundError):
            self.stat()
            return True
        return False

    def is_dir(self) -> bool:
        """Whether anything is below this name."""
        import obstore

        return ask(self, lambda: any(True for _ in obstore.list(self.store, self.key or None)))

    def exists(self) -> bool:
        """Whether there is such an object, or anything below it: up to two requests."""
        return self.is_file() or self.is_dir()

    def read_versioned(self) -> tuple[bytes, Version]:
        """The content and its version. Raises FileNotFoundError."""
        import obstore

        def read() -> tuple[bytes, Version]:
            found = obstore.get(self.store, self.key)
            return bytes(found.bytes()), _version_of(found.meta)

        return ask(self, read)

    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError."""
        return self.read_versioned()[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text. Raises FileNotFoundError."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> Version:
        """Replace the object, whole, whatever it was."""
        return self._put(data, "overwrite")

    def create(self, data: bytes) -> Version:
        """Write an object that is not there yet. Raises FileExistsError."""
        try:
            return self._put(data, "create")
        except FileExistsError:
            return self._mine(data)

    def replace_version(self, data: bytes, version: Version) -> Version:
        """Replace the object while it is that version. Raises ChangedError."""
        try:
            return self._put(data, dict(version))
        except (ChangedError, FileNotFoundError) as error:
            with suppress(FileNotFoundError):
                return self._mine(data)
            raise ChangedError(str(self)) from error

    def unlink(self, missing_ok: bool = True) -> None:
        """Remove the object; one that is not there is no error to a store."""
        import obstore

        with suppress(FileNotFoundError):
            ask(self, lambda: obstore.delete(self.store, self.key))

    def rmdir(self) -> None:
        """There is nothing to remove: it went with what was below it."""

    def iterdir(self) -> Iterator[RemotePath]:
        """What is right below, sorted: objects, and names that have more below them."""
        import obstore

        found = ask(self, lambda: obstore.list_with_delimiter(self.store, self.key or None))
        keys = [meta["path"] for meta in found["objects"]] + [*found["common_prefixes"]]
        return iter([RemotePath(self.root, key) for key in sorted(keys) if key != self.key])

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Those right below whose name is of the pattern."""
        return (path for path in self.iterdir() if path.match(pattern))

    def walk_files(self) -> Iterator[RemotePath]:
        """Every object below, at any depth."""
        import obstore

        found = ask(self, lambda: obstore.list(self.store, self.key or None).collect())
        return iter([RemotePath(self.root, meta["path"]) for meta in found])

    def open_ranges(self, *, ahead: int = 0) -> RangedFile:
        """A file that asks for the ranges that are read, of one version. Raises FileNotFoundError;
        reading raises ChangedError once the object is another."""
        from batchgen.job.stores.ranged_file import RangedFile

        stat = self.stat()
        return RangedFile(
            lambda start, stop: self.read_range(start, stop, stat.version),
            stat.st_size,
            ahead=ahead,
        )

    def read_range(self, start: int, stop: int, version: Version | None = None) -> bytes:
        """Bytes of the object, of that version."""
        import obstore

        options: Any = {"range": (start, stop)}
        if version is not None and version.get("e_tag"):
            options["if_match"] = version["e_tag"]
        return ask(self, lambda: bytes(obstore.get(self.store, self.key, options=options).bytes()))

    def _put(self, data: bytes, mode: Any) -> Version:
        import obstore

        def put() -> Any:
            return obstore.put(self.store, self.key, data, mode=mode, use_multipart=False)

        written = ask(self, put)
        return _version_of(written)

    def _mine(self, data: bytes) -> Version:
        """The version of what is there, if it is this: the answer to a first try was lost, and its
        repetition met what it had written. Raises FileExistsError where it is something else."""
        there, version = self.read_versioned()
        if there != data:
            raise FileExistsError(f"{self} exists")
        return version


def _version_of(meta: Any) -> Version:
    return {key: meta[key] for key in ("e_tag", "version") if meta[key] is not None}


def _stat_of(meta: Any) -> ObjectStat:
    return ObjectStat(meta["size"], meta["last_modified"].timestamp(), _version_of(meta))
