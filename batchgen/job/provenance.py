"""What the output's footer says of where it came from, and what tells one output from another."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.hf_features import huggingface_metadata
from batchgen.job.manifest import Manifest
from batchgen.job.parts import Part
from batchgen.job.schema import SCHEMA_VERSION

__all__ = ["footer_metadata", "merged_late", "output_identity", "written_rows"]

VERSION_KEY = "batchgen.schema_version"
MANIFEST_KEY = "batchgen.manifest"


def footer_metadata(schema: pa.Schema, manifest: Manifest) -> dict[str, str]:
    """Key-value metadata of the output."""
    metadata = {VERSION_KEY: str(SCHEMA_VERSION), MANIFEST_KEY: manifest.footer_json()}
    features = huggingface_metadata(schema)
    if features is not None:
        metadata["huggingface"] = features
    return metadata


def written_rows(path: Path, job_id: str) -> int | None:
    """Input rows of a finished output; None where that job did not write it."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        manifest = json.loads(metadata[MANIFEST_KEY.encode()])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    return manifest["total_rows"] if manifest.get("job_id") == job_id else None


def output_identity(path: Path) -> dict[str, Any]:
    """Size and modification time: enough to see in no time that a file is the one written."""
    stat = path.stat()
    return {"name": path.name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def merged_late(parts: Iterable[Part]) -> list[str]:
    """Late columns of all parts, in the order in which the input first had them."""
    first: dict[str, tuple[int, int]] = {}
    for part in parts:
        for name, place in part.late.items():
            first[name] = min(place, first.get(name, place))
    return sorted(first, key=lambda name: (first[name], name))
