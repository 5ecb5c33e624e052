"""An output as a folder of Parquet files in an object store, which counts from its manifest on.

    OUT/part-00000-of-00042-1f6c0a9b.parquet ...    rows sorted by (index, sample), as in one file
    OUT/_manifest.json                              the job, and the files with their rows

A store renames nothing, so the files are sent one by one as they are done, under names that no
earlier writing had, and the manifest last, only in the place of the one that was known. What was
there before stays until then, and goes after it. Who reads by pattern, not by the manifest, may see
files of a writing that is under way.
"""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from batchgen.errors import BatchgenError
from batchgen.job.output.folder import OutputFolder
from batchgen.job.storage.layout import FOLDER_MANIFEST
from batchgen.job.stores import faults
from batchgen.job.stores.files import Guard, atomic_file, unwritable, write_atomic
from batchgen.job.stores.places import names_in, remove_all
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["OutputObjects"]

_PART = re.compile(r"part-\d{5,}-of-\d{5,}-[0-9a-f]{8}\.parquet")


class OutputObjects(OutputFolder):
    """Files being sent below `out`. `commit` makes them count; else those sent are removed."""

    def __init__(
        self,
        out: RemotePath,
        schema: pa.Schema,
        metadata: Mapping[str, str],
        rows_per_file: int,
        num_rows: int,
        guard: Guard,
    ) -> None:
        """`num_rows`: of the input, which tells how many files there will be."""
        self._folder = tempfile.TemporaryDirectory(prefix="batchgen-")
        super().__init__(Path(self._folder.name) / "out", schema, metadata, rows_per_file)
        self._there, self._guard = out, guard
        self._num_files = max(1, -(-num_rows // rows_per_file))
        self._tag = secrets.token_hex(4)
        self._sent: list[RemotePath] = []
        self._committed = False

    def commit(self, guard: Guard) -> None:
        """Send the last file and the manifest, then remove what is not of this output."""
        with unwritable("the output", self._there):
            self._end_last_file()
            data = self._manifest().encode()
            write_atomic(self._there / FOLDER_MANIFEST, data, "final", guard)
        self._committed = True
        mine = {path.name for path in self._sent}
        old = [name for name in names_in(self._there) if _PART.fullmatch(name)]
        remove_all(self._there / name for name in old if name not in mine)

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._folder.cleanup()
        if not self._committed:
            with suppress(BatchgenError):
                remove_all(self._sent)

    def _end_file(self) -> None:
        if self._writer is None:
            return
        super()._end_file()
        number = len(self._files) - 1
        name = f"part-{number:05d}-of-{self._num_files:05d}-{self._tag}.parquet"
        local, place = self._path(number), self._there / name
        self._files[number] |= {"name": name, "bytes": local.stat().st_size}
        self._sent.append(place)
        with atomic_file(place, "file") as file:
            local.replace(file.temporary)
            faults.reach("file.send")
            file.commit(self._guard)
