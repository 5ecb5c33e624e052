"""Where what can be made again is kept between runs: compiled code, mostly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["cache_folder", "prepare_compilers"]

_COMPILERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def cache_folder(name: str = "") -> Path | None:
    """`name` in batchgen's cache, or the cache's own folder, made if need be; None where no folder
    can be written.

    `BATCHGEN_CACHE_DIR`, else `batchgen` in `XDG_CACHE_HOME` or `~/.cache`; where that cannot be
    written (a read-only home), a folder of this user's own among the temporary ones.
    """
    for root, shared in _roots():
        folder = root / name
        with suppress(OSError):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(exist_ok=True, mode=0o700)
            if os.access(folder, os.W_OK | os.X_OK) and not (shared and _is_others(root)):
                return folder
    return None


def prepare_compilers() -> None:
    """Keep compiled layers and kernels between runs and reboots, unless the user placed the caches
    elsewhere. To be called before the first kernel is compiled.

    Multiplications and additions stay fused, as the kernels were tested and measured: Triton 3.9
    warns that its default will change.
    """
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    for variable, name in _COMPILERS.items():
        folder = None if _is_placed(os.environ.get(variable)) else cache_folder(name)
        if folder is not None:
            os.environ[variable] = str(folder)


def _is_placed(folder: str | None) -> bool:
    """Whether the user did: torch names a temporary folder there as soon as it is imported."""
    return folder is not None and not os.path.basename(folder).startswith("torchinductor_")


def _roots() -> Iterator[tuple[Path, bool]]:
    """Folders, and whether others could have made them before us."""
    given = os.environ.get("BATCHGEN_CACHE_DIR")
    if given:
        yield Path(given), False
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    yield Path(home) / "batchgen", False
    import tempfile  # as much work as all the rest of this module

    yield Path(tempfile.gettempdir()) / f"batchgen-{os.geteuid()}", True


def _is_others(folder: Path) -> bool:
    """Code is loaded from it, so nobody else may have made it or be able to write to it."""
    found = folder.lstat()
    return found.st_uid != os.geteuid() or bool(found.st_mode & 0o022)
