"""One thread at a time imports torch and transformers.

Their modules import each other in circles; two threads that enter a circle from two sides can see
modules half made.
"""

from __future__ import annotations

import threading

__all__ = ["importing"]

importing = threading.RLock()
"""Held by whoever imports them."""
