"""The names under which Triton finds compiled kernels again, the same whoever asks first.

Before Triton 3.8 a kernel's key holds the global constants of the functions that it calls only
where their keys were known before its own: which kernel a process happened to launch first decided
what another process found in the cache, and what `kernels_ahead` had compiled was compiled again.
"""

from __future__ import annotations

from typing import Any

__all__ = ["settle_keys"]


def settle_keys(*kernels: Any) -> None:
    """Compute the keys of kernels as their module is imported, those of what they call first.
    Without effect in Triton's interpreter, which compiles nothing."""
    for kernel in kernels:
        for name in kernel.fn.__code__.co_names:
            called = kernel.fn.__globals__.get(name)
            if hasattr(called, "cache_key"):
                settle_keys(called)
        getattr(kernel, "cache_key", None)
