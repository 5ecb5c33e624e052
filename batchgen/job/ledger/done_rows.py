"""Which of a run's rows are done, by the parts that lie there: its own and those of other runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchgen.job.stopping.stop_check import StopCheck, never
from batchgen.job.storage.bitmap import Bitmap
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.layout import Layout, list_parts
from batchgen.job.storage.part import Part
from batchgen.job.storage.parts import scan_parts
from batchgen.job.storage.totals import totals_of
from batchgen.job.stores.places import Place

__all__ = ["DoneRows"]

Indices = npt.NDArray[np.int64]


class DoneRows:
    """One bit a row of this run's shard. One thread adds, any thread may look."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._seen: set[Place] = set()
        self._loaded: list[Part] = []
        self.rows = Bitmap()
        self.written: list[Part] = []
        """By this run itself, whose rows are entered as they come."""

    @property
    def parts(self) -> list[Part]:
        """All that were seen."""
        return self._loaded + self.written

    def totals(self) -> FinalReport:
        """Of the rows that are done."""
        return totals_of(self.parts, len(self.rows), self._layout.shard)

    def load(self, job: str, check_stop: StopCheck = never) -> None:
        """Take in every part not seen before, but for those written by this run itself.

        `check_stop` is called after each: there may be tens of thousands. What it raises ends it.
        """
        layout = self._layout
        self._seen.update(part.path for part in self.written)
        new = [path for path in list_parts(layout.parts, layout.shard) if path not in self._seen]
        self._seen.update(new)
        for part, indices in scan_parts(new, layout.damaged, job):
            self._loaded.append(part)
            self.rows.add_array(indices[self._mine(indices)])
            check_stop()

    def settled(self, indices: Indices) -> npt.NDArray[np.bool_]:
        """Which of the rows are done, or another shard's. [num_rows]"""
        return self.rows.contains_array(indices) | ~self._mine(indices)

    def _mine(self, indices: Indices) -> npt.NDArray[np.bool_]:
        shard = self._layout.shard
        if shard is None:
            return np.ones(len(indices), dtype=np.bool_)
        mine: npt.NDArray[np.bool_] = indices % shard.count == shard.index
        return mine
