"""An output as a folder of Parquet files, so many input rows each, which appears whole.

    OUT/part-00000-of-00042.parquet ...    rows sorted by (index, sample), as in one file
    OUT/_manifest.json                     the job, and the files with their rows

Every file is an output of its own to a reader, with the same schema and footer. Names beginning
with `_` are passed over by Spark, pyarrow, DuckDB's globs and `datasets`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchgen.job.arrow_ints import integers
from batchgen.job.parquet.row_groups import RowGroupWriter
from batchgen.job.storage.layout import FOLDER_MANIFEST
from batchgen.job.stores import faults
from batchgen.job.stores.files import Guard, fsync, fsync_folder, temporary_path, unwritable

__all__ = ["OutputFolder", "replace_folder"]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class OutputFolder:
    """Files being written in a temporary folder. `commit` makes it appear; else it is removed."""

    def __init__(
        self, out: Path, schema: pa.Schema, metadata: Mapping[str, str], rows_per_file: int
    ) -> None:
        self._out, self._schema, self._metadata = out, schema, metadata
        self._rows_per_file = rows_per_file
        self._temporary = temporary_path(out)
        self._writer: RowGroupWriter | None = None
        self._files: list[dict[str, Any]] = []

    def __enter__(self) -> OutputFolder:
        with unwritable("the output", self._out):
            self._temporary.mkdir()
        return self

    def write(self, table: pa.Table) -> None:
        """The next rows; those of an index go to the file of `index // rows_per_file`."""
        for number, piece in self._pieces(table):
            while len(self._files) <= number:
                self._begin_file()
            file = self._files[number]
            file["rows"] += len(piece["index"].unique()) - (
                file["last"] == piece["index"][0].as_py()
            )
            file["output_rows"] += piece.num_rows
            file["first"] = piece["index"][0].as_py() if file["first"] is None else file["first"]
            file["last"] = piece["index"][-1].as_py()
            assert self._writer is not None
            self._writer.write(piece)

    def commit(self, guard: Guard) -> None:
        """Name the files by their number, write the manifest, make all durable, then visible."""
        with unwritable("the output", self._out):
            self._end_last_file()
            for number, file in enumerate(self._files):
                file["name"] = f"part-{number:05d}-of-{len(self._files):05d}.parquet"
                path = self._temporary / file["name"]
                self._path(number).rename(path)
                file["bytes"] = path.stat().st_size
                fsync(path)
            (self._temporary / FOLDER_MANIFEST).write_text(self._manifest())
            fsync(self._temporary / FOLDER_MANIFEST)
            fsync_folder(self._temporary)
        guard()
        with unwritable("the output", self._out):
            faults.reach("final.rename", self._temporary)
            replace_folder(self._temporary, self._out)
            faults.reach("final.renamed", self._out)
            fsync_folder(self._out.parent)

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.abandon()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _manifest(self) -> str:
        manifest = {"version": 1, "rows_per_file": self._rows_per_file, "files": self._files}
        manifest |= {name: json.loads(text) for name, text in self._metadata.items()}
        return json.dumps(manifest, indent=1)

    def _pieces(self, table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
        numbers = integers(table["index"]) // self._rows_per_file
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), table.num_rows]
        for start, stop in pairwise(cuts):
            yield int(numbers[start]), table.slice(start, stop - start)

    def _path(self, number: int) -> Path:
        return self._temporary / f"part-{number:05d}.parquet"

    def _begin_file(self) -> None:
        self._end_file()
        path = self._path(len(self._files))
        self._writer = RowGroupWriter(path, self._schema, self._metadata)
        self._files.append({"rows": 0, "output_rows": 0, "first": None, "last": None})

    def _end_last_file(self) -> None:
        if not self._files:
            self._begin_file()  # a reader finds the schema of no rows
        self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def replace_folder(new: Path, old: Path) -> None:
    """Put `new` in the place of `old`, a folder or file that may be there; in one step where the
    system can exchange names, so that one of the two is always there."""
    if not old.exists():
        os.rename(new, old)
        return
    if not _exchanged(new, old):
        aside = temporary_path(old)
        os.rename(old, aside)
        os.rename(new, old)
        new = aside
    if new.is_dir():
        shutil.rmtree(new, ignore_errors=True)
    else:
        new.unlink(missing_ok=True)


def _exchanged(one: Path, other: Path) -> bool:
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))
