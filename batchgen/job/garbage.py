"""The garbage collector while rows stream through: rarely."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["rare_collections"]

_THRESHOLDS = (200_000, 10, 100)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Rows make hundreds of thousands of objects and no cycles: with Python's thresholds the
    collector takes a third of the job half's time looking for them."""
    before = gc.get_threshold()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
