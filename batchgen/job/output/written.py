"""The Parquet files of a finished output, one or those of a folder: which there are, and each to be
read as often as it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from batchgen.errors import InputUnreadableError
from batchgen.job.storage.layout import FOLDER_MANIFEST
from batchgen.job.stores.places import Place, arrow_source
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["WrittenFile", "output_files", "what_lacks"]


def output_files(out: Place) -> list[Place]:
    """The Parquet files of an output in the order of their rows.

    InputUnreadableError where one of a folder is gone, or is another than was written.
    """
    if isinstance(out, RemotePath):
        return [out] if out.is_file() else [out / one["name"] for one in _listed(out)] or [out]
    if not out.is_dir():
        return [out]
    if lacks := what_lacks(out):
        message, hint = lacks
        raise InputUnreadableError(message, hint)
    return sorted(out.glob("part-*.parquet"))


def what_lacks(out: Place) -> tuple[str, str] | None:
    """Of an output that is a folder on a disk: what to say where a file that its manifest lists is
    not there in its size, and what to do."""
    if isinstance(out, Path) and out.is_dir():
        for file in _listed(out):
            path = out / file["name"]
            if not path.is_file() or path.stat().st_size != file.get("bytes", path.stat().st_size):
                text = (
                    f"{out} is not whole: {path.name} is gone, or is not the file that was written"
                )
                return text, "put it back, or compute it all again with --overwrite"
    return None


def _listed(out: Place) -> list[dict[str, Any]]:
    """The files that the manifest of a folder names; [] where there is none."""
    try:
        found = json.loads((out / FOLDER_MANIFEST).read_bytes())["files"]
        return [file for file in found if {"name", "bytes"} <= file.keys()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


class WrittenFile:
    """One file, its footer read, which holds no descriptor: an output may have more files than a
    process may have open."""

    def __init__(self, place: Place) -> None:
        """Raises FileNotFoundError, and OSError or Arrow's errors where it is no Parquet."""
        self._source = arrow_source(place)
        self.metadata: pq.FileMetaData = pq.read_metadata(self._source)
        self.names: list[str] = self.metadata.schema.to_arrow_schema().names

    def open(self, **how: Any) -> pq.ParquetFile:
        """To be closed by whoever asks; its footer is not read again."""
        return pq.ParquetFile(self._source, metadata=self.metadata, **how)
