"""What a merge lacks: rows, and the shards that are to be run for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from batchgen.counts import counted
from batchgen.errors import InputUnreadableError
from batchgen.job.arrow_ints import integers
from batchgen.job.ledger.shard_manifests import all_manifests
from batchgen.job.output.check import shown_ranges
from batchgen.job.storage.bitmap import Bitmap
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.manifest import Manifest
from batchgen.job.storage.part import Part
from batchgen.job.storage.parts import read_columns
from batchgen.job.stores.places import all_of

__all__ = ["MissingShardsError", "check_nothing_missing"]

_CHUNK_ROWS = 1 << 22
_MAX_SHARDS_NAMED = 20


class MissingShardsError(InputUnreadableError):
    """Not every row is there to be merged; the message names rows and shards."""


def check_nothing_missing(
    layout: Layout, job: Manifest, parts: Sequence[Part], count: bool = True
) -> None:
    """Raise MissingShardsError where rows lack. `count`: believe the parts' own counts, which a
    row that is there twice can deceive, if they suffice."""
    assert job.total_rows is not None
    if count and sum(part.rows for part in parts) >= job.total_rows:
        return
    lacking = _Lacking(_present(parts), job.total_rows, _last_split(layout, job))
    if lacking.rows:
        raise MissingShardsError(
            f"{lacking.rows:,} of {counted(job.total_rows, 'row')} missing: {lacking.named}",
            lacking.advice(layout),
        )


class _Lacking:
    """Missing rows: how many, where, and of which shards of `split`."""

    def __init__(self, present: Bitmap, total: int, split: int) -> None:
        self.rows = 0
        self._split = split
        self._of_shard = np.zeros(split, dtype=np.int64)
        self._ranges: list[tuple[int, int]] = []
        for start in range(0, total, _CHUNK_ROWS):
            rows = np.arange(start, min(total, start + _CHUNK_ROWS), dtype=np.int64)
            self._add(rows[~present.contains_array(rows)])

    def _add(self, rows: npt.NDArray[np.int64]) -> None:
        self.rows += len(rows)
        self._of_shard += np.bincount(rows % self._split, minlength=self._split)
        if len(rows) and len(self._ranges) <= _MAX_SHARDS_NAMED:
            cuts = np.flatnonzero(np.diff(rows) != 1) + 1
            starts, ends = rows[np.r_[0, cuts]], rows[np.r_[cuts - 1, len(rows) - 1]]
            few = slice(_MAX_SHARDS_NAMED + 1)
            self._ranges += zip(starts[few].tolist(), ends[few].tolist(), strict=True)

    @property
    def named(self) -> str:
        """`17, 20-25, ...`."""
        more = ", ..." if len(self._ranges) > _MAX_SHARDS_NAMED else ""
        return shown_ranges(self._ranges[:_MAX_SHARDS_NAMED]) + more

    def advice(self, layout: Layout) -> str:
        """Which shards to run."""
        if self._split == 1:
            return f"run the job on {layout.out} again: it computes what is missing"
        shards = [
            f"--shard {shard}/{self._split} ({counted(self._of_shard[shard], 'row')})"
            for shard in np.flatnonzero(self._of_shard)
        ]
        more = len(shards) - _MAX_SHARDS_NAMED
        named = ", ".join(shards[:_MAX_SHARDS_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        return f"run again, with any number of shards, or these: {named}; then merge again"


def _present(parts: Iterable[Part]) -> Bitmap:
    """The rows that these parts have."""
    present = Bitmap()
    read = partial(read_columns, names=["index"])
    for table in all_of(read, [part.path for part in parts]):
        if table is not None:
            present.add_array(integers(table["index"]))
    return present


def _last_split(layout: Layout, job: Manifest) -> int:
    """Into how many shards the job was split the last time that one began; 1: it never was."""
    shards = all_manifests(layout, job)
    began = {
        folder.name: manifest.runs[-1]["started_at"]
        for folder, manifest in shards.items()
        if manifest.runs
    }
    if not began:
        return 1
    return int(max(began, key=lambda name: began[name]).partition("of")[2])
