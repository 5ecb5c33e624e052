"""The hub's client, for a model that is a file.

transformers names a few parts of it while it is imported, with which come 80 modules: of HTTP, of
commits and discussions. What stands for such a part is the part itself as soon as it is asked for
something.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["Later", "name_hub", "put_off_hub"]

_HUB = "huggingface_hub"
_PARTS = (
    "HfApi",
    "ModelCard",
    "create_branch",
    "create_commit",
    "create_repo",
    "get_repo_discussions",
    "list_repo_tree",
    "snapshot_download",
)


class Later:
    """Stands for what `make` makes, which it does when something is asked of it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._made = functools.cache(make)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As that."""
        return self._made()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made(), name)

    def __or__(self, other: object) -> Any:
        """In an annotation, which nobody reads."""
        return Any


def put_off_hub() -> None:
    """To be called before transformers is imported. A client that does not import its parts when
    they are asked for stays as it is."""
    try:
        hub = vars(importlib.import_module(_HUB))
    except ImportError:
        return
    find = hub.get("__getattr__")
    if find is None:
        return
    for name in _PARTS:
        hub.setdefault(name, Later(functools.partial(find, name)))


def name_hub() -> None:
    """From now on whoever asks the client for a part gets that."""
    hub = vars(importlib.import_module(_HUB))
    for name in _PARTS:
        if isinstance(hub.get(name), Later):
            del hub[name]
