"""How long an idle OpenMP thread spins, settled before anything loads the OpenMP runtime."""

from __future__ import annotations

import os

__all__ = ["settle_waiting"]

_SPINS = "10000"
"""Under a millisecond. GNU's default spins for tens of them: where another process holds a core,
the spinning thread then keeps its own from the one it waits for, and a step takes ten times as
long. Sleeping at once (OMP_WAIT_POLICY=passive) doubles a step on a quiet machine."""


def settle_waiting() -> None:
    """Choose for the user where the environment does not."""
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = _SPINS
