"""Folders that a pattern leads to and that may not be looked into: glob passes them over."""

from __future__ import annotations

import glob
import logging
import os
from pathlib import PurePath

__all__ = ["tell_shut_folders"]

_log = logging.getLogger(__name__)


def tell_shut_folders(pattern: str) -> None:
    """Of each, since its files are not read; the run goes on, for it may hold none."""
    for folder in _shut_folders(pattern):
        _log.warning("%s: %s may not be looked into: its files are not read", pattern, folder)


def _shut_folders(pattern: str) -> list[str]:
    """Folders on the way to the files of a pattern that may not be listed where it has a pattern's
    letters, or gone through."""
    parts = PurePath(pattern).parts
    shut: set[str] = set()
    for count in range(1, len(parts)):
        wanted = os.X_OK | (os.R_OK if glob.has_magic(parts[count]) else 0)
        found = glob.glob(os.path.join(*parts[:count], ""), recursive=True)
        shut.update(folder for folder in found if not os.access(folder, wanted))
    return sorted(shut)
