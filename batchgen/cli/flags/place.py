"""What a flag that names a file takes: a local path, or an object in a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from batchgen.job.stores.places import Place

__all__ = ["PLACE"]


class _PlaceType(click.ParamType):  # type: ignore[type-arg]  # of later releases of click
    """A local path, or an object in a store. Whether it was written as a folder is kept in the
    context's `meta`: a Path forgets its last slash."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Place:
        """`s3://bucket/name`, `gs://`, `az://`; all else is a local path. Raises UsageError."""
        from batchgen.job.stores.places import place_of
        from batchgen.job.stores.remote_path import RemotePath

        if ctx is not None and param is not None and isinstance(value, str):
            ctx.meta[f"batchgen.folder.{param.name}"] = value.endswith("/")
        return value if isinstance(value, Path | RemotePath) else place_of(value)


PLACE = _PlaceType()
