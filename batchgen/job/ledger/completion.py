"""The end of a job: parts become the output, and the manifest says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from batchgen.job.ledger.opening import check_target, discard_work
from batchgen.job.output.check import OutputCheck
from batchgen.job.output.json_lines import write_json_lines
from batchgen.job.output.merge import Merge, ranked
from batchgen.job.output.output import verified_totals, write_output
from batchgen.job.output.provenance import footer_metadata, merged_late, output_identity
from batchgen.job.stopping.stop_check import StopCheck, never
from batchgen.job.storage.failed_rows import keep_failed_rows
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.manifest import Manifest
from batchgen.job.storage.part import Columns, Part
from batchgen.job.stores import faults
from batchgen.job.stores.files import Guard
from batchgen.job.stores.places import scratch

__all__ = ["complete", "complete_written", "write_whole"]


def write_whole(
    layout: Layout,
    manifest: Manifest,
    parts: Sequence[Part],
    columns: Columns,
    guard: Guard,
    check_stop: StopCheck = never,
) -> FinalReport:
    """Write the output: every one of `manifest.total_rows` rows once, in order, verified, whole.
    Then drop the parts. `check_stop` is called between its pieces.

    Raises MissingRowsError, OutputUnwritableError, OutputHeldError; FingerprintMismatchError where
    somebody else's file took the output's name meanwhile: it stays, and so do the parts.
    """
    assert manifest.total_rows is not None
    schema = columns.schema(merged_late(parts))

    def may_write() -> None:
        guard()
        check_target(layout, manifest)

    keep_failed_rows(layout.folder, manifest.job_id, parts, manifest.total_rows, guard)
    with scratch(layout.folder) as folder:
        merge = Merge(ranked(parts), schema, folder, check_stop=check_stop)
        report = write_output(
            layout.record,
            _watched(merge.tables(), check_stop),
            schema,
            footer_metadata(schema, manifest),
            OutputCheck(manifest.total_rows),
            may_write,
            layout.form.rows_per_file,
        )
    if layout.form.kind == "jsonl":
        job = manifest.job_id, manifest.total_rows
        write_json_lines(layout.target, layout.record, job, may_write, guard, check_stop)
    report.duplicates_dropped = merge.duplicates
    complete(layout, manifest, report, guard)
    return report


def complete_written(
    layout: Layout, manifest: Manifest, num_rows: int, guard: Guard
) -> FinalReport:
    """The same where the output is there and whole already, and only the manifest does not say so:
    a crash came between the two."""
    manifest.total_rows = num_rows
    report = verified_totals(layout.record, num_rows)
    complete(layout, manifest, report, guard)
    return report


def complete(layout: Layout, manifest: Manifest, report: FinalReport, guard: Guard) -> None:
    """Record that the output is there and whole, then remove what led to it."""
    # The output is in place before the manifest says so, and parts go only after it has: a crash
    # between any two of these steps leaves either the parts or a manifest that knows the output.
    manifest.state, manifest.form = "complete", layout.form.to_dict()
    manifest.totals = report
    manifest.output = output_identity(layout.sign)
    manifest.write(layout.manifest, guard)
    discard_work(layout)


def _watched(tables: Iterator[pa.Table], check_stop: StopCheck) -> Iterator[pa.Table]:
    for table in tables:
        faults.reach("final.piece")
        check_stop()
        yield table
