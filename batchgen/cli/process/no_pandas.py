"""Keeps pandas out of a process that has no use for it."""

from __future__ import annotations

import sys

__all__ = ["keep_pandas_out"]


def keep_pandas_out() -> None:
    """pyarrow imports pandas with the first list it is given, to ask whether it is a Series: 300
    modules for nothing in a run, which has none. It asks once."""
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas:
    """A finder in whose presence pandas cannot be imported."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Refuse pandas, know nothing of others."""
        if name == "pandas":
            raise ModuleNotFoundError("not needed here", name=name)
