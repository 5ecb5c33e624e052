"""The most memory this process has held. Standard library only."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["peak_resident_bytes"]

_STATUS = Path("/proc/self/status")


def peak_resident_bytes() -> int:
    """Of this program alone where the system says so: `getrusage` counts what its parent held
    when it was started, too (Linux keeps that figure across exec)."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
