"""What the output's footer says of where it came from, and what tells one output from another."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.hf_features import huggingface_metadata
from batchgen.job.output.json_lines import rendered_rows
from batchgen.job.schema import SCHEMA_VERSION
from batchgen.job.storage.layout import FOLDER_MANIFEST, Layout, folder_of
from batchgen.job.storage.manifest import Manifest
from batchgen.job.storage.part import Part
from batchgen.job.stores.places import Place, arrow_source, readable
from batchgen.job.stores.remote_path import RemotePath

__all__ = [
    "footer_manifest",
    "footer_metadata",
    "is_input_of",
    "merged_late",
    "output_identity",
    "written_rows",
]

VERSION_KEY = "batchgen.schema_version"
MANIFEST_KEY = "batchgen.manifest"


def footer_metadata(schema: pa.Schema, manifest: Manifest) -> dict[str, str]:
    """Key-value metadata of the output."""
    metadata = {VERSION_KEY: str(SCHEMA_VERSION), MANIFEST_KEY: manifest.footer_json()}
    features = huggingface_metadata(schema)
    if features is not None:
        metadata["huggingface"] = features
    return metadata


def footer_manifest(path: Place) -> Manifest | None:
    """The job that wrote an output, as its footer tells; None where batchgen did not write it.

    Raises InputUnreadableError where the system does not let it be read.
    """
    try:
        with readable(path):  # whose it is nobody can tell
            return _written_manifest(path)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError):
        return None


def _written_manifest(path: Place) -> Manifest:
    if isinstance(path, Path) and path.is_dir():
        path = path / FOLDER_MANIFEST
    if path.name == FOLDER_MANIFEST:
        held = json.loads(path.read_bytes())
        return Manifest.from_json(json.dumps(held[MANIFEST_KEY]))
    metadata = pq.read_metadata(arrow_source(path)).metadata or {}
    return Manifest.from_json(metadata[MANIFEST_KEY.encode()].decode())


def written_rows(layout: Layout, job_id: str) -> int | None:
    """Input rows of a finished output; None where that job did not write it."""
    if layout.form.kind == "jsonl":
        return rendered_rows(layout.target, layout.record, job_id)
    manifest = footer_manifest(layout.sign)
    return manifest.total_rows if manifest is not None and manifest.job_id == job_id else None


def output_identity(path: Place) -> dict[str, Any]:
    """Size and modification time, or entity tag: enough to see in no time that a file or an object
    is the one written."""
    if isinstance(path, RemotePath):
        found = path.stat()
        return {"name": path.name, "size": found.st_size, "etag": found.etag}
    stat = (path / FOLDER_MANIFEST if path.is_dir() else path).stat()
    return {"name": path.name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def is_input_of(out: Place, path: Path) -> bool:
    """Whether a file is one that the output was made of, as far as name, size and time tell."""
    manifest = footer_manifest(out) or Manifest.read(folder_of(out) / "manifest.json")
    if manifest is None or manifest.input is None or not path.is_file():
        return False
    stat = path.stat()
    own = {"name": path.name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    return any(own.items() <= source.items() for source in manifest.input.sources)


def merged_late(parts: Iterable[Part]) -> list[str]:
    """Late columns of all parts, in the order in which the input first had them."""
    first: dict[str, tuple[int, int]] = {}
    for part in parts:
        for name, place in part.late.items():
            first[name] = min(place, first.get(name, place))
    return sorted(first, key=lambda name: (first[name], name))
