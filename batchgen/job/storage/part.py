"""A part as a value: what it is called, what its footer says of its rows, its columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.schema import output_schema
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.layout import PART_NAME
from batchgen.job.stores.places import Place

__all__ = [
    "Columns",
    "FailedRows",
    "Part",
    "PartStem",
    "PartSummary",
    "failed_of",
    "footer",
    "summary_of",
    "totals_of",
]

_PART_KEY, _TOTALS_KEY, _FAILED_KEY = b"batchgen.part", b"batchgen.totals", b"batchgen.failed"
FailedRows = Mapping[int, bytes]
"""Failed rows by index, and the digest of what the input had for each."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What the output has beside the base columns."""

    kept: tuple[tuple[str, pa.DataType], ...] = ()
    optional: frozenset[str] = frozenset()
    """Of `OPTIONAL_FIELDS`: those that the job asks for, whatever its rows have."""

    def schema(self, late: Iterable[str] = ()) -> pa.Schema:
        """The schema with these late columns."""
        return output_schema(self.kept, late, self.optional)

    @property
    def declared(self) -> set[str]:
        """Names that are never late."""
        return {name for name, _ in self.kept} | self.optional


@dataclass(frozen=True, slots=True)
class Part:
    """A committed part. `first` and `last` are row indices, `size` its bytes once read."""

    path: Place
    rows: int
    first: int
    last: int
    size: int
    late: dict[str, tuple[int, int]] = field(default_factory=dict)
    written_at: float = 0.0
    totals: FinalReport | None = None
    """None: it was written by a version that did not count them."""

    @classmethod
    def of(cls, path: Place, summary: PartSummary, totals: FinalReport | None = None) -> Part:
        """The part at `path` with that footer."""
        return cls(
            path,
            summary.rows,
            summary.first,
            summary.last,
            summary.size,
            summary.late,
            summary.written_at,
            totals,
        )

    @property
    def order(self) -> tuple[float, int, int, str]:
        """Parts in the order in which they were written: time, attempt, sequence."""
        match = PART_NAME.match(self.path.name)
        assert match is not None, self.path
        return self.written_at, int(match["attempt"]), int(match["seq"]), self.path.name


@dataclass(frozen=True, slots=True)
class PartSummary:
    """What a part's footer tells without reading a row. `job`: the fingerprint it belongs to."""

    job: str
    rows: int
    errors: dict[str, int]
    first: int
    last: int
    size: int
    late: dict[str, tuple[int, int]]
    written_at: float = 0.0


@dataclass(frozen=True, slots=True)
class PartStem:
    """What a new part is called: the shard and attempt that write it and its number there."""

    job: str
    attempt: int
    seq: int
    label: str = ""

    @property
    def name(self) -> str:
        """The file name without checksum and suffix."""
        shard = f"{self.label}-" if self.label else ""
        return f"part-{shard}{self.attempt:06d}-{self.seq:06d}"


def footer(summary: PartSummary, totals: FinalReport, failed: FailedRows) -> dict[str, str]:
    """Key-value metadata of a part."""
    rows = {str(index): digest.hex() for index, digest in failed.items()}
    return {
        _TOTALS_KEY.decode(): json.dumps(asdict(totals)),
        _PART_KEY.decode(): json.dumps(asdict(summary)),
        **({_FAILED_KEY.decode(): json.dumps(rows)} if rows else {}),
    }


def summary_of(metadata: pq.FileMetaData) -> PartSummary:
    """The summary in a footer. Raises KeyError, ValueError, TypeError where there is none."""
    data: dict[str, Any] = json.loads((metadata.metadata or {})[_PART_KEY])
    late = {name: (place[0], place[1]) for name, place in data.pop("late").items()}
    return PartSummary(late=late, **data)


def totals_of(metadata: pq.FileMetaData) -> FinalReport | None:
    """The totals in a footer; None where a version that did not count them wrote it."""
    try:
        return FinalReport(**json.loads(metadata.metadata[_TOTALS_KEY]))
    except (KeyError, TypeError, ValueError):
        return None


def failed_of(metadata: pq.FileMetaData) -> FailedRows:
    """Failed rows in a footer; {} where there are none, or an earlier version wrote it."""
    rows: dict[str, str] = json.loads((metadata.metadata or {}).get(_FAILED_KEY, b"{}"))
    return {int(index): bytes.fromhex(digest) for index, digest in rows.items()}
