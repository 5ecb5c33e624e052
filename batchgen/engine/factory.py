"""Where scripts outside batchgen find `load_engine`: the name they have from before the room."""

from __future__ import annotations

from batchgen.engine.run.factory import load_engine

__all__ = ["load_engine"]
