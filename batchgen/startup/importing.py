"""One thread at a time imports torch and transformers.

Their modules import each other in circles; two threads that enter a circle from two sides can see
modules half made.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["absent", "importing"]

importing = threading.RLock()
"""Held by whoever imports them."""


@contextmanager
def absent(package: str) -> Iterator[None]:
    """A package that is not there for whoever asks for it meanwhile, unless it is imported."""
    finder = _Absent(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@dataclass(frozen=True, slots=True, eq=False)
class _Absent:
    package: str

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse it, know nothing of others."""
        if name == self.package:
            raise ModuleNotFoundError("not needed here", name=name)
