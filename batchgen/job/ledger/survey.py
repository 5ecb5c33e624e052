"""All parts of a job at a glance: from their footers alone, one short read each."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.schema import BASE_SCHEMA, OPTIONAL_FIELDS
from batchgen.job.storage.layout import Layout, list_parts
from batchgen.job.storage.part import Columns, Part, PartSummary, summary_of
from batchgen.job.storage.parts import set_aside
from batchgen.job.stored_types import sortable_type
from batchgen.job.stores.places import Place, all_of, arrow_source, readable

__all__ = ["survey"]


def survey(layout: Layout, job: str) -> tuple[list[Part], Columns]:
    """The job's parts, and its declared kept and optional columns, as its parts have them.

    A part whose footer cannot be read, or that belongs to another job, is set aside. That its rows
    are what was written is checked when they are read.
    """
    parts: list[Part] = []
    columns = _Columns()
    paths = list_parts(layout.parts)
    for path, metadata in zip(paths, all_of(_metadata, paths), strict=True):
        summary = None if metadata is None else _summary(metadata)
        if metadata is None or summary is None:
            set_aside(path, layout.damaged)
            continue
        if summary.job != job:
            set_aside(path, layout.damaged)
            continue
        part = Part.of(path, summary)
        parts.append(part)
        columns.add(metadata, part)
    return parts, columns.found


def _metadata(path: Place) -> pq.FileMetaData | None:
    try:
        with readable(path):  # a good part, perhaps
            return pq.read_metadata(arrow_source(path))
    except (OSError, pa.ArrowException):
        return None


def _summary(metadata: pq.FileMetaData) -> PartSummary | None:
    try:
        return summary_of(metadata)
    except (KeyError, ValueError):
        return None


@dataclass(slots=True)
class _Columns:
    """Columns seen so far; a schema seen before is not looked at again."""

    _kept: dict[str, pa.DataType] = field(default_factory=dict)
    _optional: set[str] = field(default_factory=set)
    _seen: set[tuple[pa.Schema, frozenset[str]]] = field(default_factory=set)

    def add(self, metadata: pq.FileMetaData, part: Part) -> None:
        """Take in one part's."""
        schema = metadata.schema.to_arrow_schema().remove_metadata()
        if (schema, late := frozenset(part.late)) in self._seen:
            return
        self._seen.add((schema, late))
        extra = [column for column in schema if column.name not in BASE_SCHEMA.names]
        self._optional |= {column.name for column in extra} & OPTIONAL_FIELDS.keys()
        self._kept |= {
            column.name: sortable_type(column.type)
            for column in extra
            if column.name not in part.late and column.name not in OPTIONAL_FIELDS
        }

    @property
    def found(self) -> Columns:
        """All of them."""
        return Columns(tuple(self._kept.items()), frozenset(self._optional))
