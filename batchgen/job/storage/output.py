"""The output file: written beside its name, verified row by row, renamed once it is whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.counts import counted
from batchgen.errors import BatchgenError, OutputUnwritableError, UsageError
from batchgen.job.arrow_ints import integers
from batchgen.job.form import Form
from batchgen.job.parquet.row_groups import RowGroupWriter
from batchgen.job.prefetch import prefetched
from batchgen.job.schema import MAX_ROW_GROUP_ROWS
from batchgen.job.storage.layout import FOLDER_MANIFEST
from batchgen.job.storage.manifest import FinalReport
from batchgen.job.storage.output_folder import OutputFolder, output_files
from batchgen.job.storage.output_objects import OutputObjects
from batchgen.job.stores import faults
from batchgen.job.stores.clients import SCHEMES
from batchgen.job.stores.files import Guard, atomic_file, unwritable
from batchgen.job.stores.places import Place, arrow_source
from batchgen.job.stores.remote_path import RemotePath

__all__ = [
    "MissingRowsError",
    "OutputCheck",
    "check_name",
    "check_served",
    "row_groups_of",
    "shown_ranges",
    "verified_totals",
    "write_output",
]

_MAX_GROUP_BYTES = 16 << 20
"""Of a row group in memory: one is filled while two are encoded."""
_MAX_RANGES_NAMED = 20
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # pathlib makes one slash of two
_OTHER_FORMATS = re.compile(
    r"\.(csv|tsv|jsonl?|ndjson|txt|xlsx?|arrow|feather|ipc|avro|orc|db|sqlite|pkl|pickle|npy|npz"
    r"|h5|hdf5|html|md|xml|ya?ml|gz|bz2|xz|zst|lz4|zip|tar)"
)
_TOKEN_COLUMNS = ("prompt_tokens", "completion_tokens", "cached_tokens")

Ints = npt.NDArray[np.int64]


class MissingRowsError(BatchgenError):
    """The parts do not hold every row; the message names those that lack."""


def check_name(out: Place) -> None:
    """Raise OutputUnwritableError where what has that name is no output, or can be none."""
    if isinstance(out, RemotePath):
        return
    if str(out) == "-":
        raise OutputUnwritableError(
            "--out -: the output appears whole, by a rename, so it cannot go to stdout",
            "name a file, such as out.parquet; `batchgen export out.parquet --format jsonl --to -` "
            "prints it afterwards",
        )
    if out.exists() and not out.is_file() and not out.is_dir():
        raise OutputUnwritableError(
            f"the output {out} is a device or a pipe: it must appear whole, by a rename",
            "name a file",
        )
    if out.is_dir() and not (out / FOLDER_MANIFEST).exists():
        raise OutputUnwritableError(
            f"the output {out} is a folder", f"name a file, such as {out / 'out.parquet'}"
        )


def check_served(out: Place) -> None:
    """Raise UsageError where the name asks for a place or a format that is not served.

    A name such as `s3://bucket/out.parquet` would make a local folder `s3:`.
    """
    scheme = None if isinstance(out, RemotePath) else _SCHEME.match(str(out))
    if scheme is not None:
        raise UsageError(
            f"--out {out}: {scheme[1]}:// is not a place that batchgen writes to",
            f"name a file on a mounted file system and copy it once the run is done, or an object "
            f"in one of {', '.join(f'{name}://' for name in SCHEMES)}",
        )
    ending = out.suffix.lower()
    if Form.of(out).kind != "jsonl" and _OTHER_FORMATS.fullmatch(ending):
        raise UsageError(
            f"--out {out}: the output is Parquet or JSONL, and {ending} is another format",
            f"name it {out.with_suffix('.parquet')}; `batchgen export` writes other formats",
        )


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
        count_rows(self.report, table)

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


def count_rows(report: FinalReport, table: pa.Table) -> None:
    """Add a table's rows to the totals (all but `rows`, which needs the neighbours)."""
    report.output_rows += table.num_rows
    statuses = _value_counts(table["status"])
    report.ok += statuses.get("ok", 0)
    report.errors += statuses.get("error", 0)
    report.skipped += statuses.get("skipped", 0)
    report.length += _value_counts(table["finish_reason"]).get("length", 0)
    for code, count in _value_counts(table["error_code"]).items():
        report.error_codes[code] = report.error_codes.get(code, 0) + count
    for name in _TOKEN_COLUMNS:
        setattr(report, name, getattr(report, name) + _sum(table[name]))


def write_output(
    out: Place,
    tables: Iterator[pa.Table],
    schema: pa.Schema,
    metadata: Mapping[str, str],
    check: OutputCheck,
    guard: Guard,
    rows_per_file: int | None = None,
) -> FinalReport:
    """Write the tables as `out`, which appears only if all of them pass the check."""
    if rows_per_file is not None:
        return _write_folder(out, tables, (schema, metadata), check, guard, rows_per_file)
    with atomic_file(out, "final") as file, unwritable("the output", out):
        with RowGroupWriter(file.temporary, schema, metadata) as writer:
            _write_checked(tables, check, writer)
        report = check.finish()
        file.commit(guard)
    return report


def _write_folder(
    out: Place,
    tables: Iterator[pa.Table],
    made_of: tuple[pa.Schema, Mapping[str, str]],
    check: OutputCheck,
    guard: Guard,
    rows_per_file: int,
) -> FinalReport:
    with _folder(out, made_of, rows_per_file, check.num_rows, guard) as folder:
        with unwritable("the output", out):
            _write_checked(tables, check, folder)
        report = check.finish()
        folder.commit(guard)
    return report


def _write_checked(
    tables: Iterator[pa.Table], check: OutputCheck, writer: RowGroupWriter | OutputFolder
) -> None:
    for table in _row_groups(prefetched(tables, 1)):
        check.add(table)
        faults.reach("final.write")
        writer.write(table)


def _folder(
    out: Place,
    made_of: tuple[pa.Schema, Mapping[str, str]],
    rows_per_file: int,
    num_rows: int,
    guard: Guard,
) -> OutputFolder:
    if isinstance(out, RemotePath):
        return OutputObjects(out, *made_of, rows_per_file, num_rows, guard)
    return OutputFolder(out, *made_of, rows_per_file)


def verified_totals(path: Place, num_rows: int) -> FinalReport:
    """Totals of an output that is there already, checked as when it was written."""
    check = OutputCheck(num_rows)
    for table in row_groups_of(path):
        check.add(table)
    return check.finish()


def row_groups_of(path: Place, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a finished output, a row group at a time."""
    for name in output_files(path):
        with pq.ParquetFile(arrow_source(name)) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns, use_threads=False)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows cut into tables of one row group each."""
    waiting: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        size += table.nbytes
        if rows >= MAX_ROW_GROUP_ROWS or size >= _MAX_GROUP_BYTES:
            whole = pa.concat_tables(waiting)
            step = min(MAX_ROW_GROUP_ROWS, max(1, rows * _MAX_GROUP_BYTES // max(1, size)))
            full = rows - rows % step
            for start in range(0, full, step):
                yield whole.slice(start, step)
            waiting = [whole.slice(full)] if full < rows else []
            rows -= full
            size = sum(table.nbytes for table in waiting)
    if rows:
        yield pa.concat_tables(waiting)


def _sum(column: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc  # a third of what a rerun with nothing to do would import

    total: int = pc.sum(column, min_count=0).as_py()
    return total


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, nulls left out."""
    counted = column.value_counts()
    values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    return {value: count for value, count in zip(values, counts, strict=True) if value is not None}


def shown_ranges(missing: list[tuple[int, int]]) -> str:
    """`17, 20-25, ...` for messages."""
    named = [str(a) if a == b else f"{a}-{b}" for a, b in missing[:_MAX_RANGES_NAMED]]
    more = len(missing) - len(named)
    return ", ".join(named) + (f" and {counted(more, 'more place')}" if more else "")
