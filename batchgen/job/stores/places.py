"""Places: a local path, or an object in a store. What works on both takes a `Place`."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from batchgen.errors import InputUnreadableError, UsageError
from batchgen.job.stores.clients import SCHEMES, require_extra
from batchgen.job.stores.remote_path import RemotePath

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = [
    "Place",
    "all_of",
    "arrow_source",
    "matching",
    "move",
    "names_in",
    "opened",
    "place_of",
    "readable",
    "remove_all",
    "remove_trees",
    "scratch",
]

Place = Path | RemotePath
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?P<rest>.*)", re.DOTALL)
_ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_WORKERS = 16
_DELETE_AT_ONCE = 1000
T = TypeVar("T")
R = TypeVar("R")


def place_of(text: str) -> Place:
    """The place of that name, `~` being the home folder: no shell writes it out behind `--out=`.
    Other schemes than those of object stores stay local names, which whoever uses them refuses.
    Raises UsageError."""
    address = _ADDRESS.fullmatch(text)
    scheme = "" if address is None else address["scheme"].lower()
    scheme = _ALIASES.get(scheme, scheme)
    if address is None or scheme not in SCHEMES:
        return Path(os.path.expanduser(text))
    bucket, _, key = address["rest"].lstrip("/").partition("/")
    if "@" in bucket:
        raise UsageError(
            f"{scheme}://***@{bucket.rpartition('@')[2]}: a login does not belong in an address",
            "set it in the environment, as for the cloud's own tools",
        )
    key = key.strip("/")
    if not bucket or "?" in bucket + key or "//" in key:
        raise UsageError(
            f"{scheme}://{bucket} and what follows is no name of an object",
            f"write {scheme}://BUCKET/NAME, without a query and without an empty part",
        )
    require_extra(f"{scheme}://{bucket}/{key}")
    return RemotePath(f"{scheme}://{bucket}", key)


def names_in(folder: Place) -> list[str]:
    """Names right below; [] where there is no such folder, or a file in its way."""
    if isinstance(folder, RemotePath):
        return [path.name for path in folder.iterdir()]
    try:
        with readable(folder):
            return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def matching(folder: Place, pattern: str) -> list[Place]:
    """What lies right below under such a name. A folder that cannot be looked into is no empty one,
    as it is to pathlib's glob."""
    return [folder / name for name in names_in(folder) if fnmatch(name, pattern)]


@contextmanager
def readable(place: Place) -> Iterator[None]:
    """Turn an OSError of the system, which says nothing of what is there, into
    InputUnreadableError.

    What is not there stays that, and damaged content what Arrow makes of it: an OSError without a
    number.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise InputUnreadableError(
            f"cannot read {place}: {os.strerror(error.errno)}",
            "see to the disk, or to its rights, and run the same command again: finished rows are "
            "kept",
        ) from error


def arrow_source(place: Place) -> Any:
    """What pyarrow reads it by; of an object only the ranges that are needed. Raises
    FileNotFoundError where an object is missing."""
    return place.open_ranges() if isinstance(place, RemotePath) else place


def opened(place: Place) -> IO[bytes]:
    """Its bytes from the beginning. Raises FileNotFoundError."""
    if isinstance(place, RemotePath):
        return io.BufferedReader(place.open_ranges(ahead=1))
    return place.open("rb")


def move(place: Place, folder: Place) -> None:
    """Into the folder, under its own name."""
    if isinstance(place, RemotePath):
        assert isinstance(folder, RemotePath)
        (folder / place.name).write_bytes(place.read_bytes())
        place.unlink()
    else:
        os.replace(place, folder / place.name)  # type: ignore[arg-type]


def remove_all(places: Iterable[Place]) -> None:
    """Remove files; what cannot be removed stays. Objects go by the thousand."""
    remote: dict[str, list[str]] = {}
    local: list[Path] = []
    for place in places:
        if isinstance(place, RemotePath):
            remote.setdefault(place.root, []).append(place.key)
        else:
            local.append(place)
    _side_by_side(_unlink, local)
    for root, keys in remote.items():
        for start in range(0, len(keys), _DELETE_AT_ONCE):
            _delete(root, keys[start : start + _DELETE_AT_ONCE])


def _delete(root: str, keys: list[str]) -> None:
    import obstore

    from batchgen.job.stores.clients import client
    from batchgen.job.stores.failures import ask

    with suppress(FileNotFoundError):
        ask(root, lambda: obstore.delete(client(root), keys))


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def remove_trees(folders: Sequence[Place]) -> None:
    """Remove folders and all below them; what cannot be removed stays."""
    remote = [folder for folder in folders if isinstance(folder, RemotePath)]
    remove_all(path for folder in remote for path in folder.walk_files())
    local = [folder for folder in folders if not isinstance(folder, RemotePath)]
    _side_by_side(partial(shutil.rmtree, ignore_errors=True), local)


def _side_by_side(remove: Callable[[Path], None], paths: Sequence[Path]) -> None:
    """A journaling file system makes whoever removes wait for its log, several in one wait: a
    thousand folders took 15 s one by one, and 1.3 s so (ext4)."""
    if len(paths) < _WORKERS:
        for path in paths:
            remove(path)
        return
    with _workers("remove") as pool:
        list(pool.map(remove, paths))


@contextmanager
def scratch(folder: Place) -> Iterator[Path]:
    """A local folder for files that are gone in the end: the folder itself, if it is local."""
    if isinstance(folder, Path):
        yield folder
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="batchgen-") as name:
        yield Path(name)


def _workers(name: str) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_WORKERS, thread_name_prefix=f"batchgen-{name}")


def all_of(work: Callable[[T], R], places: Iterable[T]) -> Iterator[R]:
    """`work` of each, in order; of objects several at once, since most of the time is waiting."""
    listed = list(places)
    if not any(isinstance(place, RemotePath) for place in listed):
        yield from map(work, listed)
        return
    with _workers("ask") as pool:
        for start in range(0, len(listed), 4 * _WORKERS):  # so much is held at once, not all
            yield from pool.map(work, listed[start : start + 4 * _WORKERS])
