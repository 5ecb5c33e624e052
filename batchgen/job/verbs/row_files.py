"""Rows of a finished output, whatever it is on disk: Parquet, a folder of it, lines of JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError
from batchgen.job.form import Form, compression_of
from batchgen.job.output.written import WrittenFile, output_files
from batchgen.job.storage.layout import Layout, folder_of
from batchgen.job.storage.manifest import is_complete
from batchgen.job.stored_types import plain_values
from batchgen.job.stores.places import Place, opened

__all__ = [
    "NEXT",
    "JsonFile",
    "ParquetFiles",
    "RowFile",
    "no_output",
    "not_written",
    "open_rows",
    "reading",
]

Row = dict[str, Any]
_MOMENTS = {"started_at", "finished_at"}
NEXT = "give an output of `batchgen run`"


class ParquetFiles:
    """One file, or those of a folder one after the other; none is open between questions."""

    def __init__(self, path: Place) -> None:
        self._files = [WrittenFile(name) for name in output_files(path)]
        if not self._files:
            raise InputUnreadableError(f"{path} holds no part of an output", NEXT)
        self._counts = [
            (file, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.metadata.num_row_groups)
        ]
        self.names = self._files[0].names
        self.num_rows = sum(count for *_, count in self._counts)

    def batches(self, columns: Sequence[str], size: int) -> Iterator[list[list[Any]]]:
        """So many rows at a time: a list of values a column."""
        for one in self._files:
            with one.open() as file:
                for batch in file.iter_batches(size, columns=list(dict.fromkeys(columns))):
                    yield [plain_values(batch.column(name)) for name in columns]

    def rows(self, columns: Sequence[str], places: Iterable[int]) -> list[Row]:
        """Some rows by their ordinal."""
        ends = np.cumsum([count for *_, count in self._counts])
        found = []
        for place in places:
            number = int(np.searchsorted(ends, place, side="right"))
            one, group, count = self._counts[number]
            with one.open() as file:
                table = file.read_row_group(group, columns=list(columns))
            row = table.slice(int(place - ends[number] + count), 1)
            found.append({name: plain_values(row.column(name))[0] for name in columns})
        return found


class JsonFile:
    """Lines of JSON, read anew for each question."""

    def __init__(self, path: Place) -> None:
        self._path = path
        first = next(self._lines(), {})
        self.names = list(first)
        self.num_rows = sum(1 for _ in self._lines())

    def batches(self, columns: Sequence[str], size: int) -> Iterator[list[list[Any]]]:
        """So many rows at a time: a list of values a column."""
        lines = self._lines()
        while rows := list(islice(lines, size)):
            yield [[row.get(name) for row in rows] for name in columns]

    def rows(self, columns: Sequence[str], places: Iterable[int]) -> list[Row]:
        """Some rows by their ordinal."""
        wanted = list(places)
        last = max(wanted, default=-1)
        found = {n: row for n, row in enumerate(islice(self._lines(), last + 1)) if n in wanted}
        return [{name: found[place].get(name) for name in columns} for place in wanted]

    def _lines(self) -> Iterator[Row]:
        packed = compression_of(self._path)
        with opened(self._path) as file, pa.input_stream(file, compression=packed) as stream:
            for number, line in enumerate(io.BufferedReader(stream), 1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputUnreadableError(f"{self._path}:{number} is no row", NEXT)
                for name in _MOMENTS & row.keys():
                    row[name] = row[name] and datetime.fromisoformat(row[name])
                yield row


RowFile = ParquetFiles | JsonFile


def no_output(path: Place, names: Iterable[str]) -> InputUnreadableError:
    """For rows that a run has not written: they have these columns."""
    return InputUnreadableError(
        f"{path} is no output of batchgen; its columns are {', '.join(names)}", NEXT
    )


def not_written(out: Place, path: Place) -> InputUnreadableError:
    """For an output whose file at `path` is not there: a run may be under way."""
    manifest = Layout(folder_of(out), out).manifest
    if path != out and is_complete(manifest):
        text = f"cannot read {out}: {path} is gone, from which its lines were written"
        return InputUnreadableError(text, f"put it back; `batchgen inspect {out}` does without")
    if manifest.exists():
        return InputUnreadableError(
            f"{out} is not written yet: its job is not complete",
            f"run the same command again to continue; `batchgen status {out}` tells how far it is",
        )
    return InputUnreadableError(f"cannot read {out}: {path} is not there", NEXT)


@contextmanager
def reading(out: Place, path: Place) -> Iterator[None]:
    """InputUnreadableError for what reading the rows of `out` meets, which lie at `path`."""
    try:
        yield
    except FileNotFoundError as error:
        raise not_written(out, path) from error
    except (OSError, pa.ArrowException, ValueError) as error:
        kind = "JSONL" if Form.of(path).kind == "jsonl" else "Parquet"
        text = f"cannot read {path} as {kind}: {first_line(error)}"
        raise InputUnreadableError(text, NEXT) from error


def open_rows(path: Place) -> RowFile:
    """Raises InputUnreadableError where it is no such file."""
    with reading(path, path):
        return JsonFile(path) if Form.of(path).kind == "jsonl" else ParquetFiles(path)
