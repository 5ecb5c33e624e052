"""What `--in` names: files, globs, folders and `datasets`, in order, as sources.

Nothing is read here but a file's first bytes. Order: that of the arguments, sorted within a glob or
folder. Kinds are told by magic bytes, then by suffix.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath

from batchgen.counts import counted
from batchgen.errors import InputUnreadableError, OutputUnwritableError, UsageError
from batchgen.job.input.file_kinds import (
    HEAD_BYTES,
    compression_by_head,
    refuse_container,
    refuse_wide,
)
from batchgen.job.input.folder_keys import folder_keys
from batchgen.job.input.source import Source, SourceKind, same_file
from batchgen.job.stores.places import Place
from batchgen.job.stores.remote_find import find_remote, is_remote
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["find_sources"]

_log = logging.getLogger(__name__)
_ROW_SUFFIXES = (".jsonl", ".ndjson")
_COMPRESSED = ("", ".gz", ".zst", ".bz2", ".xz", ".lz4")
_FOLDER_SUFFIXES = (*(row + zip for row in _ROW_SUFFIXES for zip in _COMPRESSED), ".parquet")
_DATA_SUFFIXES = (
    *_FOLDER_SUFFIXES, *_COMPRESSED[1:], ".json", ".pq", ".csv", ".tsv", ".txt", ".zip", ".tar",
)  # fmt: skip
_TABLES = re.compile(r"\.(csv|tsv)(\.(gz|bz2|zst|lz4|xz))?")
"""Of names that mean a file, there or not, and no dataset of the hub."""
_DATASET_MARKS = ("state.json", "dataset_dict.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")
_HUB_PREFIXES = ("hf://datasets/", "hf:")
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<login>[^/@]*@)?(?P<place>[^?#]*)")


def find_sources(inputs: Sequence[str], output: Place | None = None) -> tuple[Source, ...]:
    """Every source that the `--in` arguments name, in order.

    InputUnreadableError names an argument that is missing, unreadable or without rows;
    OutputUnwritableError an input that is the output itself. Globs and folders leave the output and
    hidden files out.
    """
    return tuple(source for argument in inputs for source in _found(argument, output))


def _found(argument: str, output: Place | None) -> list[Source]:
    try:
        return [*_expand(argument, output)]
    except OSError as error:  # a folder on the way that may not be looked into, say
        if _ADDRESS.match(argument):
            raise
        text = f"input {argument}: {error.strerror or error}"
        hint = "check the name, and the rights of the folders on the way"
        raise InputUnreadableError(text, hint) from error


def _expand(argument: str, output: Place | None) -> Iterator[Source]:
    path = Path(argument := os.path.expanduser(argument))
    if path.is_dir():
        yield from _folder(path, output)
    elif path.exists():
        _refuse_output(path, output)
        yield _file(path)
    elif is_remote(argument):
        yield from _remote(argument, output)
    elif (address := _ADDRESS.match(argument)) and not argument.startswith(_HUB_PREFIXES[0]):
        raise _not_read(address)
    elif glob.has_magic(argument):
        yield from _matches(argument, output)
    elif hub_id := _hub_id(argument):
        yield Source(hub_id, SourceKind.HUB)
    else:
        raise InputUnreadableError(f"input {argument} does not exist", _advice(path))


def _remote(argument: str, output: Place | None) -> Iterator[Source]:
    def wanted(path: RemotePath) -> bool:
        part = path.name.startswith("part-") and path.parent.name == "parts"
        named = path.name.endswith(_FOLDER_SUFFIXES) and not path.name.startswith(".")
        return named and not part and path != output

    for found in find_remote(argument, wanted):
        if str(output) == found.name:
            text = f"output {output} is the input {found.name}"
            raise OutputUnwritableError(text, "write to another object with --out")
        kind = _kind_of(PurePosixPath(found.name), found.head(HEAD_BYTES))
        yield Source(found.name, kind, found, folder_keys(found.name, argument))


def _folder(path: Path, output: Place | None) -> Iterator[Source]:
    if any((path / mark).is_file() for mark in _DATASET_MARKS):
        yield Source(str(path), SourceKind.DATASET_FOLDER)
        return
    inside = sorted(path.iterdir())
    files = [p for p in inside if p.name.endswith(_FOLDER_SUFFIXES) and _wanted(p, output)]
    others = [p.name for p in inside if _TABLES.search(p.name.lower()) and _wanted(p, output)]
    if others and files:
        text = "folder %s: %s left out; to read such files too, name them: --in '%s/*.csv'"
        _log.warning(text, path, counted(len(others), "table is", "tables are"), path)
    if not files:
        ending = ".parquet" if next(path.rglob("*.parquet"), None) else ".jsonl"
        hint = f"write '{path}/**/*{ending}' to look into subfolders"
        texts = [p for p in inside if p.suffix == ".txt" and p.is_file()]
        if texts:
            make = """jq -Rsc '{id: input_filename, prompt: .}' "$f"; done > rows.jsonl"""
            hint = f"make rows of its texts: for f in {path}/*.txt; do {make}"
        if others:
            hint = f"it holds {', '.join(others[:5])}: name tables with a pattern, '{path}/*.csv'"
        raise InputUnreadableError(f"folder {path} holds no {', '.join(_FOLDER_SUFFIXES)}", hint)
    for file in files:
        yield _file(file)


def _matches(pattern: str, output: Place | None) -> Iterator[Source]:
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in files if _wanted(path, output)]
    for folder in _shut_folders(pattern):  # the run goes on, for they may hold none
        _log.warning("%s: %s may not be looked into: its files are not read", pattern, folder)
    if not files:
        hint = "quote a pattern so that the shell leaves it alone, and check the folder's name"
        raise InputUnreadableError(f"no file matches {pattern}", hint)
    for file in files:
        yield replace(_file(file), keys=folder_keys(file.as_posix(), pattern))


def _shut_folders(pattern: str) -> list[str]:
    """Folders on the way to the files of a pattern, passed over by glob, that may not be listed
    where it has a pattern's letters, or gone through."""
    parts = PurePath(pattern).parts
    shut: set[str] = set()
    for count in range(1, len(parts)):
        wanted = os.X_OK | (os.R_OK if glob.has_magic(parts[count]) else 0)
        found = glob.glob(os.path.join(*parts[:count], ""), recursive=True)
        shut.update(folder for folder in found if not os.access(folder, wanted))
    return sorted(shut)


def _wanted(path: Path, output: Place | None) -> bool:
    if path.name.startswith(".") or not path.is_file() or _is_part(path):
        return False
    return output is None or not same_file(path, output)


def _is_part(path: Path) -> bool:
    """Whether it is a run's finished rows, which `**` also finds."""
    return path.name.startswith("part-") and (path.parent.parent / "owners-door").is_dir()


def _refuse_output(path: Path, output: Place | None) -> None:
    if output is not None and same_file(path, output):
        text = f"output {output} is the input {path}"
        raise OutputUnwritableError(text, "write to another file with --out")


def _file(path: Path) -> Source:
    if not path.is_file():
        hint = "write its rows to a file first: a resumed run must read them again"
        raise InputUnreadableError(f"input {path} is not a regular file", hint)
    return Source(str(path), _kind(path))


def _kind(path: Path) -> SourceKind:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise InputUnreadableError(f"input {path}: {error.strerror}", "check its rights") from None
    return _kind_of(path, head)


def _kind_of(path: PurePath, head: bytes) -> SourceKind:
    refuse_container(str(path), head)
    if _TABLES.search("".join(path.suffixes).lower()):
        refuse_wide(str(path), head, is_table=True)
        return SourceKind.CSV
    if compressed := compression_by_head(head, path.name):
        return SourceKind(f"{SourceKind.JSONL}.{compressed}")
    is_parquet = head.startswith(b"PAR1") or path.suffix in (".parquet", ".pq")
    return SourceKind.PARQUET if is_parquet else SourceKind.JSONL


def _hub_id(argument: str) -> str | None:
    """The hub id of an argument: with a prefix, or `org/name` where no folder `org` lies here."""
    for prefix in _HUB_PREFIXES:
        if argument.startswith(prefix):
            return argument.removeprefix(prefix)
    looks_so = _HUB_ID.fullmatch(argument) and not argument.endswith(_DATA_SUFFIXES)
    return argument if looks_so and not Path(argument).parent.exists() else None


def _not_read(address: re.Match[str]) -> UsageError:
    """The refusal of a place that is no file system. Login and query may be secrets: not said."""
    scheme, place = address["scheme"].lower(), address["place"]
    if scheme == "hf":
        hint = "name a dataset as hf://datasets/org/name, or download the file with hf download"
    else:
        hint = "copy it to a file here, and name that"
    return UsageError(f"--in {scheme}://{place}: {scheme}:// is not read by batchgen", hint)


def _advice(path: Path) -> str:
    if str(path) in ("-", "/dev/stdin"):
        return "write its rows to a file first: a resumed run must read them again"
    parent = path.parent
    if not parent.is_dir():
        return f"folder {parent} does not exist either: check the path"
    near = sorted(p.name for p in parent.iterdir() if p.name.endswith(_FOLDER_SUFFIXES))
    held = ", ".join(near[:5])
    return f"{parent} holds {held}" if held else f"check the path; looked in {parent}"
