"""Whether kernels for the CPU can be compiled here, and by what."""

from __future__ import annotations

import os
import shutil

__all__ = ["find_compiler", "kernels_wanted"]


def kernels_wanted() -> bool:
    """Whether BATCHGEN_CPU_KERNEL leaves them on."""
    return os.environ.get("BATCHGEN_CPU_KERNEL", "1") != "0"


def find_compiler() -> str | None:
    """The C compiler: CC, cc or gcc, whichever is on the PATH."""
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
