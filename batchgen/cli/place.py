"""A parameter that names a local path or an object in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batchgen.job.stores.places import Place, place_of
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["PLACE"]


class _PlaceType(click.ParamType):  # type: ignore[type-arg]  # of later releases of click
    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Place:
        """`s3://bucket/name`, `gs://`, `az://`; all else is a local path. Raises UsageError."""
        return value if isinstance(value, Path | RemotePath) else place_of(value)


PLACE = _PlaceType()
