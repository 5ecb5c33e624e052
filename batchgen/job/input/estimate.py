"""About how many rows an input has, for progress and ETA: looks at footers and a MiB of lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batchgen.job.input.source import Source, SourceKind

__all__ = ["estimated_rows"]

_SAMPLE_BYTES, _PLACES = 1 << 20, 32


def estimated_rows(sources: Sequence[Source], limit: int | None) -> int | None:
    """Rows of all sources, exact for Parquet, by the mean line for JSONL; None where one of them
    cannot be told without reading it (compressed files, datasets)."""
    total = 0
    for source in sources:
        rows = _rows_of(source)
        if rows is None:
            return limit
        total += rows
    return total if limit is None else min(total, limit)


def _rows_of(source: Source) -> int | None:
    try:
        if source.kind is SourceKind.PARQUET:
            import pyarrow.parquet as pq

            return int(pq.read_metadata(source.arrow_source()).num_rows)
        return _lines_of(source) if source.kind is SourceKind.JSONL else None
    except (OSError, ValueError, NotImplementedError):
        return None  # the reader will say what is wrong with it


def _lines_of(source: Source) -> int:
    """Lines of the file, if they are all over it as where it is looked at; of one in a store, as it
    begins."""
    if source.remote is not None:
        size, sample = source.remote.size, source.remote.head(_SAMPLE_BYTES)
    else:
        size, sample = _sampled(source.path)
    lines = sample.count(b"\n")
    if len(sample) == size:
        return lines + (not sample.endswith(b"\n") and bool(sample))
    return round(size / len(sample) * max(lines, 1))


def _sampled(path: Path) -> tuple[int, bytes]:
    """The file's size, and bytes of it: all, or some of each part, as lines may be sorted by
    length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _SAMPLE_BYTES:
            return size, file.read()
        width = _SAMPLE_BYTES // _PLACES
        pieces = []
        for place in range(_PLACES):
            file.seek(place * (size - width) // (_PLACES - 1))
            pieces.append(file.read(width))
    return size, b"".join(pieces)
