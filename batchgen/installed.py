"""Versions of installed packages. Standard library only."""

from __future__ import annotations

__all__ = ["version_of"]


def version_of(package: str) -> str | None:
    """`2.13.0+cpu`; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # slow, and few commands ask

    try:
        return version(package)
    except PackageNotFoundError:
        return None
