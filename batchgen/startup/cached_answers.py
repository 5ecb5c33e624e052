"""Answers that take long to find and change only with an installed package, kept between runs."""

from __future__ import annotations

import hashlib
import marshal
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchgen.startup.folders import cache_folder

__all__ = ["installation", "kept", "state_of"]


def kept(name: str, key: Sequence[object] | None, make: Callable[[], Any]) -> bytes:
    """What `make` makes, marshalled; from the cache where it was made for the same key."""
    folder = None if key is None else cache_folder("imports")
    if folder is None:
        return marshal.dumps(make())
    digest = hashlib.sha256(repr((sys.version, key)).encode()).hexdigest()[:20]
    file = folder / f"{name}-{digest}"
    with suppress(OSError, ValueError, EOFError, TypeError):
        data = file.read_bytes()
        marshal.loads(data)
        return data
    data = marshal.dumps(make())
    with suppress(OSError):
        part = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        part.write_bytes(data)
        part.replace(file)
    return data


def installation(package: Path, *more: Path) -> list[object] | None:
    """What changes with an installed version; None for a working copy, whose files may change."""
    records = sorted(package.parent.glob(f"{package.name}-*.dist-info/RECORD"))
    return [state_of(path) for path in (*records, *more)] if records else None


def state_of(path: Path) -> tuple[str, int, int]:
    """What tells a file or folder that was changed from one that was not."""
    found = path.stat()
    return str(path), found.st_mtime_ns, found.st_size
