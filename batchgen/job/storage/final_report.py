"""Totals of finished rows, as the manifest, a part's footer and the summary have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a rerun of a finished job reads the manifest alone
    import pyarrow as pa

__all__ = ["FinalReport"]

_TOKEN_COLUMNS = ("prompt_tokens", "completion_tokens", "cached_tokens")


@dataclass(slots=True)
class FinalReport:
    """Totals of a finished output. `rows` counts input rows, `output_rows` lines of the file."""

    rows: int = 0
    output_rows: int = 0
    ok: int = 0
    errors: int = 0
    skipped: int = 0
    length: int = 0
    error_codes: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    duplicates_dropped: int = 0

    def count(self, table: pa.Table) -> None:
        """Add a table's rows to the totals (all but `rows`, which needs the neighbours)."""
        self.output_rows += table.num_rows
        statuses = _value_counts(table["status"])
        self.ok += statuses.get("ok", 0)
        self.errors += statuses.get("error", 0)
        self.skipped += statuses.get("skipped", 0)
        self.length += _value_counts(table["finish_reason"]).get("length", 0)
        self._count_errors(_value_counts(table["error_code"]))
        for name in _TOKEN_COLUMNS:
            setattr(self, name, getattr(self, name) + _sum(table[name]))

    def add(self, other: FinalReport) -> None:
        """Add the totals of other rows."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._count_errors(other.error_codes)

    def _count_errors(self, counts: Mapping[str, int]) -> None:
        for code, count in counts.items():
            self.error_codes[code] = self.error_codes.get(code, 0) + count


_COUNTS = [one.name for one in fields(FinalReport) if one.name != "error_codes"]


def _sum(column: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc  # a third of what a rerun with nothing to do would import

    total: int = pc.sum(column, min_count=0).as_py()
    return total


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, nulls left out."""
    counted = column.value_counts()
    values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    return {value: count for value, count in zip(values, counts, strict=True) if value is not None}
