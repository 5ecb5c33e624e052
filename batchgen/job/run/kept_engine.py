"""An engine that stays loaded from one run to the next of the same process."""

from __future__ import annotations

from collections.abc import Callable

from batchgen.engine.request import Engine
from batchgen.job.flow.wrapped_engine import LentEngine

__all__ = ["KeptEngine", "Lend"]

Load = Callable[[], Engine]
Lend = Callable[[Load, bool], Engine]
"""`lend(load, apart)` gives the engine that `load` makes, or one made before. `apart`: it is to run
in a process of its own."""


class KeptEngine:
    """Loads once; `close` frees the device."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def lend(self, load: Load, apart: bool) -> Engine:
        """The engine for one run. One in a process `apart` is made for this run: the kept one is
        closed first, as the device has room for one."""
        if apart:
            self.close()
            return load()
        if self._engine is None:
            self._engine = load()
        return LentEngine(self._engine)

    def close(self) -> None:
        """Close the engine; the next run loads it again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
