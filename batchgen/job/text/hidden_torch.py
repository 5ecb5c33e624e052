"""Import transformers' tokenizers without torch: `validate` and `plan` need no torch's seconds.

transformers imports torch wherever it is installed. Inside `torch_hidden()` it finds none and works
without; afterwards it is forgotten, so that a later import in this process finds torch again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["torch_hidden"]

_VERBOSITY = "TRANSFORMERS_VERBOSITY"


@contextmanager
def torch_hidden() -> Iterator[None]:
    """Hide torch from imports. Does nothing where torch or transformers is already imported.

    Objects made inside that call into transformers must not be used outside.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        yield
        return
    verbosity = os.environ.get(_VERBOSITY)
    os.environ.setdefault(_VERBOSITY, "error")  # or it would say that PyTorch was not found
    sys.modules["torch"] = None  # type: ignore[assignment]  # the import system's word for "absent"
    try:
        yield
    finally:
        del sys.modules["torch"]
        _forget("transformers")
        if verbosity is None:
            del os.environ[_VERBOSITY]


def _forget(package: str) -> None:
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        del sys.modules[name]
