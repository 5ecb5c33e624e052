"""What an output is on disk: one Parquet file, lines of JSON, or a folder of Parquet files.

`--rows-per-file N` makes a folder, since a folder appears whole by one rename, which N files beside
each other cannot: `OUT/part-00000-of-00042.parquet` holds the rows of index 0 to N - 1, and so on.
pandas, DuckDB, Polars, Spark and `datasets` read such a folder by its name or `OUT/*.parquet`.

Lines of JSON have no types and no footer. So their job keeps the same rows as Parquet in its
checkpoint folder (`record`), from which they are written, and which --retry and --incremental read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from batchgen.errors import UsageError

__all__ = ["DEFAULT_FORM", "Form", "compression_of"]

_JSONL = (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst")
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class Form:
    """`kind`: parquet or jsonl. `rows_per_file`: input rows a file; None is one file."""

    kind: str = "parquet"
    rows_per_file: int | None = None

    @classmethod
    def of(cls, out: object, kind: str | None = None, rows_per_file: int | None = None) -> Form:
        """By the name's ending where `kind` is not given. Raises UsageError where they differ."""
        name = PurePath(str(out)).name.lower()
        by_name = "jsonl" if name.endswith(_JSONL) else "parquet" if _is_parquet(name) else None
        if None not in (kind, by_name) and kind != by_name:
            raise UsageError(
                f"--out {out} is named as {by_name}, and --format asks for {kind}",
                "leave --format out, or name the output otherwise",
            )
        chosen = kind or by_name or "parquet"
        if rows_per_file is not None and chosen != "parquet":
            raise UsageError(
                "--rows-per-file makes a folder of Parquet files, not of lines of JSON",
                "leave it out, or name a Parquet output and `batchgen export` it",
            )
        return cls(chosen, rows_per_file)

    @classmethod
    def recorded(cls, data: Mapping[str, Any], out: object) -> Form:
        """As a manifest has it; jobs of older versions have none."""
        return cls(**data) if data else cls.of(out)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files."""
        return self.rows_per_file is not None

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


DEFAULT_FORM = Form()
"""One Parquet file."""


def _is_parquet(name: str) -> bool:
    return name.endswith((".parquet", ".pq"))


def compression_of(out: object) -> str | None:
    """Of lines of JSON, by the ending of their file's name; None: as they are."""
    return _COMPRESSIONS.get(PurePath(str(out)).suffix.lower())
