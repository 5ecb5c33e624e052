"""Pages of libraries that were read once, while they were loaded.

libtorch alone keeps 60 MB of its file mapped for a process that needs 15 of them: its operators are
registered from all over it. They count as the process's own memory (RSS, a container's working set)
until the system runs short. Told that they are not needed, it takes them off the process at once;
they stay in its cache of files, and whoever touches one again has it back in a microsecond.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["let_go_of_library_pages"]

_MAPS = Path("/proc/self/smaps")
_UNWRITTEN = ("r-xp", "r--p")
_FEWEST = 64 << 10
"""Bytes worth a call: what a page that is touched brings along with it."""


def let_go_of_library_pages() -> None:
    """Of mapped files' pages: those that nobody can write to and nobody has. Does nothing where
    the system does not tell them (Linux does)."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    with suppress(OSError, AttributeError, ValueError):
        madvise = ctypes.CDLL(None).madvise
        for start, stop in _clean(_MAPS.read_text()) if advice is not None else ():
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), advice)


def _clean(maps: str) -> Iterator[tuple[int, int]]:
    """Where such mappings begin and end. A page that was ever written (by the loader, a debugger)
    is a copy that no file has, be it in memory or swapped out: mappings that have one stay whole.
    """
    place, held = "", 0
    for line in maps.splitlines():
        name, _, rest = line.partition(" ")
        words = rest.split()
        if not name.endswith(":"):
            is_file = len(words) > 4 and words[4].startswith("/")
            place, held = name if is_file and words[0] in _UNWRITTEN else "", 0
        elif name == "Rss:":
            held = int(words[0]) << 10
        elif name == "Anonymous:" and words[0] != "0":
            place = ""
        elif name == "Swap:" and place and held >= _FEWEST and words[0] == "0":
            start, _, stop = place.partition("-")
            yield int(start, 16), int(stop, 16)
