"""Processes that a command has started, for scripts that kill one."""

from __future__ import annotations

from pathlib import Path

__all__ = ["children"]


def children(parent: int, module: str) -> list[int]:
    """Process ids of those that run `module`, in the order of their start."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        for pid in (task / "children").read_text().split():
            if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return sorted(found)
