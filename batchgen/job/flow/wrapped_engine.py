"""An engine over another one: what a wrapper does not change is the inner engine's."""

from __future__ import annotations

from collections.abc import Callable

from batchgen.engine.request import Engine, EngineStats

__all__ = ["WrappedEngine"]


class WrappedEngine:
    """The parts of `request.Engine` that are the inner one's, whoever hands it requests."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def on_admission(self) -> Callable[[list[int]], None] | None:
        """The inner engine's."""
        return self._engine.on_admission

    @on_admission.setter
    def on_admission(self, call: Callable[[list[int]], None] | None) -> None:
        self._engine.on_admission = call

    @property
    def max_model_len(self) -> int:
        """The inner engine's."""
        return self._engine.max_model_len

    @property
    def max_num_seqs(self) -> int:
        """The inner engine's."""
        return self._engine.max_num_seqs

    def stats(self) -> EngineStats:
        """The inner engine's."""
        return self._engine.stats()
