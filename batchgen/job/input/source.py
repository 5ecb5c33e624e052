"""One input that `--in` names: what it is called, how it is read, and what marks its content."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from batchgen.errors import InputUnreadableError
from batchgen.job.stores.places import Place
from batchgen.job.stores.remote_input import RemoteInput
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["Source", "SourceKind", "same_file"]


class SourceKind(StrEnum):
    """How a source is read."""

    JSONL = "jsonl"
    JSONL_GZ = "jsonl.gz"
    JSONL_ZST = "jsonl.zst"
    JSONL_BZ2 = "jsonl.bz2"
    JSONL_XZ = "jsonl.xz"
    JSONL_LZ4 = "jsonl.lz4"
    CSV = "csv"
    PARQUET = "parquet"
    DATASET_FOLDER = "dataset"
    HUB = "hub"

    @property
    def is_jsonl(self) -> bool:
        """Whether rows are lines of JSON."""
        return self.startswith("jsonl")


@dataclass(frozen=True, slots=True)
class Source:
    """One file, dataset folder or hub id (`org/name`, `org/name:config`), as messages name it."""

    name: str
    kind: SourceKind
    remote: RemoteInput | None = field(default=None, compare=False, repr=False)
    """How it is read where it is no file of this machine."""
    keys: tuple[tuple[str, str | None], ...] = ()
    """Columns that its folders' names hold, and their value in all its rows."""

    def open(self, buffering: int) -> BinaryIO:
        """Its bytes, from the first to the last."""
        return self.path.open("rb", buffering) if self.remote is None else self.remote.open()

    def arrow_source(self) -> Any:
        """What pyarrow reads it by; only the ranges that are needed are fetched."""
        return self.name if self.remote is None else self.remote.ranges()

    @property
    def path(self) -> Path:
        """Where it lies; meaningless for a hub id."""
        return Path(self.name)

    def identity(self) -> dict[str, Any]:
        """Cheap marks of the content for the fingerprint: name, kind, size (bytes), mtime (ns).

        Equal marks mean unchanged, as make and git assume. A hub dataset has its commit instead of
        size and time, None where the hub does not say.
        """
        keys = {"keys": [*map(list, self.keys)]} if self.keys else {}
        marks: dict[str, Any] = {"name": self.path.name, "kind": str(self.kind), **keys}
        if self.remote is not None:
            return marks | {"size": self.remote.size, "etag": self.remote.version}
        if self.kind is SourceKind.HUB:
            return {**marks, "name": self.name, "commit": _hub_commit(self.name)}
        files = [self.path]
        if self.kind is SourceKind.DATASET_FOLDER:
            files = sorted(p for p in self.path.rglob("*") if p.is_file())
        stats = [_stat(path) for path in files]
        marks["size"] = sum(stat.st_size for stat in stats)
        marks["mtime_ns"] = max((stat.st_mtime_ns for stat in stats), default=0)
        return marks


def same_file(path: Place, other: Place) -> bool:
    """One file under two names: a link, hard or symbolic, or another spelling."""
    if isinstance(path, RemotePath) or isinstance(other, RemotePath):
        return path == other
    try:
        return os.path.samefile(path, other)
    except OSError:
        return path.resolve() == other.resolve()


def _hub_commit(name: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name.partition(":")[0], timeout=10).sha
    except Exception:  # offline, or a local mirror: opening the dataset will say what is wrong
        return None


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        hint = "put it back, or start anew with another --out"
        raise InputUnreadableError(f"input {path}: {error.strerror}", hint) from None
