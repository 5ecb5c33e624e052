"""What a report reads of an output: columns as arrays, one entry an output row, no text among them
but what few rows differ in, by its number; what else a few rows hold is read for these alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchgen.errors import InputUnreadableError
from batchgen.job.form import Form
from batchgen.job.output.provenance import footer_manifest
from batchgen.job.output.written import WrittenFile, output_files
from batchgen.job.storage.layout import Layout, folder_of
from batchgen.job.stores.places import Place
from batchgen.job.verbs.row_files import NEXT, ParquetFiles, no_output, reading

__all__ = ["Floats", "Ints", "Table", "moments", "numbers", "read_table"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
TEXTS = ("status", "finish_reason", "error_code", "run_id")
"""Of which there are few."""
COLUMNS = (
    "index", "sample", "prompt_tokens", "completion_tokens", "cached_tokens", "queue_s",
    "prefill_s", "decode_s", "latency_s", "preemptions", "attempt", "started_at", *TEXTS,
)  # fmt: skip
SAMPLED = ("id", "index", "error_message")


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of the Parquet at `record`, each read when it is asked for: an output may have many
    rows. `out` names it. `provenance`: of the footer, {} where there is none."""

    out: Place
    record: Place
    files: tuple[WrittenFile, ...]
    provenance: dict[str, Any]

    @property
    def path(self) -> Place:
        """What messages call it."""
        return self.out if isinstance(self.out, Path) else self.record

    @property
    def num_rows(self) -> int:
        """Output rows: those of all samples."""
        return sum(file.metadata.num_rows for file in self.files)

    def column(self, name: str) -> pa.ChunkedArray:
        """One of `COLUMNS`; of `TEXTS` by number. Raises InputUnreadableError."""
        with reading(self.out, self.record):
            tables = (_column(file, name) for file in self.files)
            return pa.concat_tables(tables).unify_dictionaries()[name]

    def ints(self, name: str) -> Ints:
        """A column of whole numbers, 0 for null, [num_rows]."""
        return np.asarray(self.column(name).fill_null(0).to_numpy(), dtype=np.int64)

    def floats(self, name: str) -> Floats:
        """A column of numbers, NaN for null, [num_rows]."""
        return np.asarray(self.column(name).to_numpy(), dtype=np.float64)

    def texts(self, name: str) -> tuple[list[str], npt.NDArray[np.int32]]:
        """A column of `TEXTS`: its texts, and which each row has, -1 for null, [num_rows]."""
        column = self.column(name).combine_chunks()
        return column.dictionary.to_pylist(), np.asarray(column.indices.fill_null(-1))

    def has(self, name: str, text: str) -> npt.NDArray[np.bool_]:
        """Which rows have that text in a column of `TEXTS`, [num_rows]."""
        texts, numbers = self.texts(name)
        number = texts.index(text) if text in texts else len(texts)
        found: npt.NDArray[np.bool_] = numbers == number
        return found

    def rows(self, places: Ints) -> list[dict[str, Any]]:
        """`SAMPLED` of the rows at these places."""
        with reading(self.out, self.record):
            return ParquetFiles(self.record).rows(SAMPLED, places.tolist())

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some of `COLUMNS`, so many rows at a time. Raises InputUnreadableError."""
        with reading(self.out, self.record):
            for written in self.files:
                with written.open(read_dictionary=list(TEXTS)) as file:
                    yield from file.iter_batches(columns=list(names))


def numbers(column: pa.Array) -> Floats:
    """NaN for null, [num_rows]."""
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def moments(column: pa.Array) -> Floats:
    """In seconds since 1970, NaN for null, [num_rows]."""
    micros = column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)
    seconds = micros.astype("datetime64[us]").astype(np.int64) / 1e6
    return np.where(np.isnat(micros), np.nan, seconds)


def read_table(out: Place) -> Table:
    """One Parquet file, a folder of them, or the rows that lines of JSON were written from.

    Raises InputUnreadableError.
    """
    path = out
    if Form.of(out).kind == "jsonl":
        path = Layout(folder_of(out, None), out, None, Form("jsonl")).record
    with reading(out, path):
        files = tuple(WrittenFile(file) for file in output_files(path))
        if not files:
            raise InputUnreadableError(f"{out} holds no part of an output", NEXT)
        if not {*COLUMNS, *SAMPLED} <= set(files[0].names):
            raise no_output(out, files[0].names)
    return Table(out, path, files, _provenance(path))


def _column(written: WrittenFile, name: str) -> pa.Table:
    with written.open(read_dictionary=list(TEXTS)) as file:
        return file.read(columns=[name], use_threads=True)


def _provenance(path: Place) -> dict[str, Any]:
    manifest = footer_manifest(path)
    if manifest is None:
        return {}
    facts = {"job": manifest.job_id, "begun": manifest.began, **manifest.facts}
    facts |= {"settings": manifest.fingerprint, "input rows": manifest.total_rows}
    if manifest.input is not None:
        facts["input"] = [source.get("name") for source in manifest.input.sources]
    return facts
