"""What an output must be before it appears: every row once, in order; and its totals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchgen.counts import counted
from batchgen.errors import BatchgenError
from batchgen.job.arrow_ints import integers
from batchgen.job.storage.final_report import FinalReport

__all__ = ["MissingRowsError", "OutputCheck", "shown_ranges"]

_MAX_RANGES_NAMED = 20

Ints = npt.NDArray[np.int64]


class MissingRowsError(BatchgenError):
    """The parts do not hold every row; the message names those that lack."""


class OutputCheck:
    """Count, order and uniqueness of rows that pass by, and their totals.

    Rows must come sorted by (index, sample): every index from 0 to `num_rows` - 1, the samples of
    each 0, 1, 2 and so on.
    """

    def __init__(self, num_rows: int) -> None:
        self.report = FinalReport()
        self._missing: list[tuple[int, int]] = []
        self.num_rows = num_rows
        self._last_index = -1
        self._last_sample = 0

    def add(self, table: pa.Table) -> None:
        """Check the next rows (at least one) and count them."""
        index = integers(table["index"])
        sample = integers(table["sample"])
        before = np.concatenate([[self._last_index], index[:-1]])  # [num_rows]
        self._check_order(index, before, sample)
        for place in np.flatnonzero(index > before + 1):
            self._missing.append((int(before[place]) + 1, int(index[place]) - 1))
        self._last_index, self._last_sample = int(index[-1]), int(sample[-1])
        self.report.rows += int((index != before).sum())
        self.report.count(table)

    def finish(self) -> FinalReport:
        """Totals, once every row has passed; MissingRowsError where rows lack."""
        if self._last_index + 1 < self.num_rows:
            self._missing.append((self._last_index + 1, self.num_rows - 1))
        if self._missing:
            count = sum(last - first + 1 for first, last in self._missing)
            rows = counted(self.num_rows, "row")
            raise MissingRowsError(
                f"{count:,} of {rows} missing: {shown_ranges(self._missing)}",
                "run the job again: it computes what is missing",
            )
        return self.report

    def _check_order(self, index: Ints, before: Ints, sample: Ints) -> None:
        sample_before = np.concatenate([[self._last_sample], sample[:-1]])
        follows = (index > before) & (sample == 0)
        continues = (index == before) & (sample == sample_before + 1)
        bad = np.flatnonzero(~(follows | continues) | (index >= self.num_rows))
        if len(bad):
            place = int(bad[0])
            raise BatchgenError(
                f"row {index[place]} sample {sample[place]} is out of place in the output, "
                f"which should have {counted(self.num_rows, 'row')}",
                "the input is not the one that was read before, or this is a bug in batchgen; "
                "the old output, if any, and all finished rows were kept",
            )


def shown_ranges(missing: list[tuple[int, int]]) -> str:
    """`17, 20-25, ...` for messages."""
    named = [str(a) if a == b else f"{a}-{b}" for a, b in missing[:_MAX_RANGES_NAMED]]
    more = len(missing) - len(named)
    return ", ".join(named) + (f" and {counted(more, 'more place')}" if more else "")
