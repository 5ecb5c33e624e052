"""Keeps pandas out of a process that has no use for it."""

from __future__ import annotations

import sys

from batchgen.startup.importing import absent

__all__ = ["keep_pandas_out"]


def keep_pandas_out() -> None:
    """pyarrow imports pandas with the first list it is given, to ask whether it is a Series: 300
    modules for nothing in a run, which has none. It asks once."""
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    with absent("pandas"):
        pa.array([0])
