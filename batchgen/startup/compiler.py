"""Whether kernels for the CPU can be compiled here, and by what."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

__all__ = ["find_compiler", "kernels_wanted"]


def kernels_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether BATCHGEN_CPU_KERNEL leaves them on."""
    return environ.get("BATCHGEN_CPU_KERNEL", "1") != "0"


def find_compiler(environ: Mapping[str, str] = os.environ) -> str | None:
    """The C compiler: CC, cc or gcc, whichever is on the PATH."""
    return shutil.which(environ.get("CC", "cc")) or shutil.which("gcc")
