"""How much of the host's memory is free, and how much this process has held. Bytes."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["available_host_memory", "peak_resident_bytes"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_STATUS = Path("/proc/self/status")
_UNKNOWN = 2 << 30


def available_host_memory() -> int:
    """What can be allocated now without swapping: by the machine, by the process's cgroup (v2) and
    by every one that it lies in."""
    candidates = [_meminfo_available(), *map(_cgroup_available, _cgroups())]
    known = [value for value in candidates if value is not None]
    return min(known, default=_UNKNOWN)


def peak_resident_bytes() -> int:
    """The most that was ever there. Of this program alone where the system says so: `getrusage`
    counts what its parent held when it was started, too (Linux keeps that figure across exec)."""
    peak = _number_after("VmHWM:", _STATUS, unit=1024)
    if peak is not None:
        return peak
    import resource  # where there is no /proc

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _meminfo_available() -> int | None:
    return _number_after("MemAvailable:", _MEMINFO, unit=1024)


def _cgroups() -> list[Path]:
    """Their folders; a container sees its own as the root."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    folder = _CGROUP / own
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(_CGROUP))]


def _cgroup_available(folder: Path) -> int | None:
    """What its limit leaves, files that were read and are not in use counted as free; None where
    there is no limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    idle = _number_after("inactive_file ", folder / "memory.stat") or 0
    return max(0, int(limit) - max(0, used - idle))


def _number_after(name: str, file: Path, unit: int = 1) -> int | None:
    try:
        lines = file.read_text().splitlines()
        found = next((line for line in lines if line.startswith(name)), None)
        return None if found is None else int(found.split()[1]) * unit
    except (OSError, ValueError, IndexError):
        return None
