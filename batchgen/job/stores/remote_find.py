"""What `--in` names outside this machine: one file, a folder's, or those that a pattern matches."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from batchgen.errors import InputUnreadableError
from batchgen.job.stores.hub_input import hub_inputs, names_a_file
from batchgen.job.stores.places import Place, place_of
from batchgen.job.stores.remote_input import RemoteInput, object_input, reading
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["find_remote", "is_remote"]

_WEB = re.compile(r"https?://", re.IGNORECASE)
_MAGIC = re.compile(r"[*?[]")
_PART = re.compile(r"\*\*/|\*\*|\*|\?|\[[^]]*\]|[^*?[]+|\[")


def is_remote(argument: str) -> bool:
    """Whether it is an address that is read here."""
    if _WEB.match(argument) or names_a_file(argument):
        return True
    return "://" in argument and isinstance(place_of(argument), RemotePath)


def find_remote(argument: str, wanted: Callable[[RemotePath], bool]) -> list[RemoteInput]:
    """The inputs of an address, sorted; of a folder or a pattern those that are `wanted`.

    Raises InputUnreadableError where there is none, or the place cannot be read.
    """
    with reading(_shown(argument)):
        if _WEB.match(argument):
            from batchgen.job.stores.web_input import web_input

            return [web_input(argument)]
        if names_a_file(argument):
            found = hub_inputs(argument)
        else:
            found = _objects(place_of(argument), wanted)
    if not found:
        raise InputUnreadableError(
            f"input {_shown(argument)}: there is no such object, and none below that name",
            "check the name; a pattern takes *, ?, [] and **",
        )
    return found


def _objects(place: Place, wanted: Callable[[RemotePath], bool]) -> list[RemoteInput]:
    assert isinstance(place, RemotePath)
    if _MAGIC.search(place.key):
        pattern = re.compile(_expression(place.key))
        folder = RemotePath(place.root, _MAGIC.split(place.key)[0].rpartition("/")[0])
        paths = [path for path in folder.walk_files() if pattern.fullmatch(path.key)]
        return [object_input(path) for path in sorted(paths) if wanted(path)]
    if place.key and place.is_file():
        return [object_input(place)]
    inside = [object_input(path) for path in place.iterdir() if wanted(path)]
    below = None if inside else next((one for one in place.walk_files() if wanted(one)), None)
    if below is not None:
        named = f"{str(place).rstrip('/')}/**/*{PurePosixPath(below.key).suffix}"
        raise InputUnreadableError(
            f"input {place}: rows lie in folders below it, as in {below}, and none in itself",
            f"write '{named}' to look into subfolders",
        )
    return inside


def _expression(pattern: str) -> str:
    """A shell's pattern over whole keys: `*` stays within a folder, `**/` does not."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = _PART.findall(pattern)
    return "".join(
        words.get(part) or (part if part[-1:] == "]" else re.escape(part)) for part in parts
    )


def _shown(argument: str) -> str:
    """Without login and query."""
    if not _WEB.match(argument):
        return argument
    scheme, _, rest = argument.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
