"""What a report reads of an output: columns as arrays, one entry an output row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError
from batchgen.job.form import Form
from batchgen.job.storage.layout import Layout, folder_of
from batchgen.job.storage.output_folder import output_files
from batchgen.job.storage.provenance import footer_manifest
from batchgen.job.stores.places import Place, arrow_source
from batchgen.job.verbs.row_files import no_output, not_written

__all__ = ["Floats", "Ints", "Table", "read_table"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
COLUMNS = (
    "index", "sample", "id", "status", "finish_reason", "error_code", "error_message",
    "prompt_tokens", "completion_tokens", "cached_tokens", "queue_s", "prefill_s", "decode_s",
    "latency_s", "preemptions", "attempt", "started_at", "run_id",
)  # fmt: skip
_NEXT = "give an output of `batchgen run`"


@dataclass(frozen=True, slots=True)
class Table:
    """`columns`: the few that are needed. `provenance`: of the footer, {} where there is none."""

    path: Place
    columns: pa.Table
    provenance: dict[str, Any]

    def ints(self, name: str) -> Ints:
        """A column of whole numbers, 0 for null, [num_rows]."""
        return np.asarray(self.columns[name].fill_null(0).to_numpy(), dtype=np.int64)

    def floats(self, name: str) -> Floats:
        """A column of numbers, NaN for null, [num_rows]."""
        return np.asarray(self.columns[name].to_numpy(), dtype=np.float64)

    def texts(self, name: str) -> npt.NDArray[np.object_]:
        """A column of strings, [num_rows]."""
        return np.asarray(self.columns[name].to_numpy(), dtype=object)

    def moments(self) -> Floats:
        """When rows came in, in seconds since 1970, NaN for null, [num_rows]."""
        micros = self.columns["started_at"].cast(pa.timestamp("us")).to_numpy()
        seconds = micros.astype("datetime64[us]").astype(np.int64) / 1e6
        return np.where(np.isnat(micros), np.nan, seconds)


def read_table(out: Place) -> Table:
    """One Parquet file, a folder of them, or the rows that lines of JSON were written from.

    Raises InputUnreadableError.
    """
    path = out
    if Form.of(out).kind == "jsonl":
        path = Layout(folder_of(out, None), out, None, Form("jsonl")).record
    try:
        files = output_files(path)
        if not files:
            raise InputUnreadableError(f"{out} holds no part of an output", _NEXT)
        names = pq.read_schema(arrow_source(files[0])).names
        if not set(COLUMNS) <= set(names):
            raise no_output(out, names)
        tables = [
            pq.read_table(arrow_source(file), columns=list(COLUMNS), use_threads=True)
            for file in files
        ]
        table = pa.concat_tables(tables)
    except FileNotFoundError as error:
        raise not_written(out, path) from error
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputUnreadableError(f"cannot read {out}: {first_line(error)}", _NEXT) from error
    manifest = footer_manifest(path)
    facts: dict[str, Any] = {}
    if manifest is not None:
        facts = {"job": manifest.job_id, "begun": manifest.began, **manifest.facts}
        facts |= {"settings": manifest.fingerprint, "input rows": manifest.total_rows}
        if manifest.input is not None:
            facts["input"] = [source.get("name") for source in manifest.input.sources]
    return Table(out if isinstance(out, Path) else path, table, facts)
