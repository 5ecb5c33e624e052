"""`merge`: the output from the parts that finished runs left, without any of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import InputUnreadableError, UsageError
from batchgen.job.ledger import FinalReport, Ledger
from batchgen.job.manifest import Manifest
from batchgen.job.opening import Layout
from batchgen.job.parts import Columns, list_parts, part_summary
from batchgen.job.schema import BASE_SCHEMA, OPTIONAL_FIELDS

__all__ = ["merge_output"]


def merge_output(
    out: Path, ckpt_dir: Path, *, num_rows: int | None = None, lock: str = "fail"
) -> FinalReport:
    """Write `out` from the parts in `ckpt_dir`, verified; totals at once where it is written.

    `num_rows` replaces the input's row count where no run has read the input to its end. Raises
    MissingRowsError naming the rows, UsageError, InputUnreadableError, OutputHeldError.
    """
    manifest = Manifest.read(Layout(ckpt_dir, out).manifest)
    if manifest is None:
        raise InputUnreadableError(
            f"nothing to merge: {ckpt_dir} has no manifest", "run `batchgen run` first"
        )
    columns = columns_of(list_parts(Layout(ckpt_dir, out).parts))
    with Ledger.open(
        ckpt_dir,
        out,
        manifest.fingerprint,
        manifest.facts,
        run_id=uuid.uuid4().hex[:16],
        kept=columns.kept,
        token_ids=columns.token_ids,
        logprobs=columns.logprobs,
        overwrite=manifest.overwriting and manifest.state == "running",
        lock=lock,
    ) as ledger:
        if ledger.finished is not None:
            return ledger.finished
        total = num_rows if num_rows is not None else ledger.manifest.total_rows
        if total is None:
            raise UsageError(
                f"how many rows {out} should have is not known: no run has read all of its input",
                "run the job again, or give --rows N",
            )
        return ledger.finalize(total)


def columns_of(parts: Sequence[Path]) -> Columns:
    """The declared kept columns and optional ones of a job, as its parts have them."""
    kept: dict[str, pa.DataType] = {}
    optional: set[str] = set()
    for path in parts:
        try:
            schema, late = pq.read_schema(path), part_summary(path).late
        except (OSError, pa.ArrowException, KeyError, ValueError):
            continue  # opening the ledger sets it aside
        extra = [field for field in schema if field.name not in BASE_SCHEMA.names]
        optional |= {field.name for field in extra} & OPTIONAL_FIELDS.keys()
        kept |= {
            field.name: field.type
            for field in extra
            if field.name not in late and field.name not in OPTIONAL_FIELDS
        }
    return Columns(tuple(kept.items()), "token_ids" in optional, "logprobs" in optional)
