"""The ledger of a job: which rows are done, and their answers, whatever happens to the process.

Invariants, each with a test in tests/test_ledger_properties.py:

1.  A row that was appended before a `flush` that returned is done in every later run.
2.  All samples of a row are committed by one rename, so a row in a part is a whole row.
3.  A part counts only if its content has the checksum in its name; others are set aside and their
    rows computed again.
4.  The output has every row from 0 to num_rows - 1 exactly once, sorted by (index, sample), or it
    is not written.
5.  The output appears by one rename; until then the old one, if any, is untouched. A part is
    removed only after the manifest says that the output is complete.
6.  Of two processes that both believe they own the output only the one with the highest attempt
    commits; whatever they interleave, no row is twice in the output (the first commit wins).
7.  Nothing is touched where the fingerprint differs, unless `overwrite`.
8.  At most `checkpoint_every` finished rows are not durable (or one `append`'s rows, if more).
9.  Memory is one bit a row, besides rows not yet durable and rows begun in vain by earlier runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchgen.job import faults
from batchgen.job.bitmap import Bitmap
from batchgen.job.files import make_folder, remove_stale
from batchgen.job.journal import Inflight, Journal
from batchgen.job.lock import OutputLock
from batchgen.job.manifest import FinalReport, InputCheckpoint, Manifest, flatten
from batchgen.job.merge import Merge, ranked
from batchgen.job.opening import Layout, decide, discard_work, has_leftovers
from batchgen.job.output import OutputCheck, verified_totals, write_output
from batchgen.job.part_writer import PartWriter
from batchgen.job.parts import Columns, Part, scan_parts
from batchgen.job.provenance import footer_metadata, merged_late, output_identity
from batchgen.job.rows import OutputRow

__all__ = ["FinalReport", "InputCheckpoint", "Ledger"]


class Ledger:
    """One job's finished rows. One thread may append while another begins rows and asks what is
    done; parts are written by a thread of the ledger's own."""

    def __init__(self, layout: Layout, manifest: Manifest, columns: Columns) -> None:
        """Use `Ledger.open`."""
        self._layout = layout
        self._manifest = manifest
        self._columns = columns
        self._done = Bitmap()
        self._parts: list[Part] = []
        self._lock: OutputLock | None = None
        self._journal: Journal | None = None
        self._writer: PartWriter | None = None
        self.num_reused = 0
        self.num_recomputed = 0

    @classmethod
    def open(
        cls,
        ckpt_dir: Path,
        out: Path,
        fingerprint: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        *,
        run_id: str,
        kept: Iterable[tuple[str, pa.DataType]] = (),
        token_ids: bool = False,
        logprobs: bool = False,
        checkpoint_every: int = 1000,
        checkpoint_seconds: float = 30.0,
        overwrite: bool = False,
        lock: str = "fail",
        background: bool = True,
    ) -> Ledger:
        """Begin a job, continue it, or find it finished (`finished` is then set, nothing locked).

        `fingerprint` may nest; it decides whether this is the same job. Raises
        FingerprintMismatchError, OutputHeldError, OutputUnwritableError.
        """
        layout = Layout(ckpt_dir, out)
        columns = Columns(tuple(kept), token_ids, logprobs)
        found = decide(layout, fingerprint, overwrite)
        if found.manifest is not None and found.finished and not has_leftovers(layout):
            return cls(layout, found.manifest, columns)
        held = OutputLock(layout.folder, out, run_id)
        make_folder(layout.parts)
        held.acquire(lock)
        try:
            ledger = cls._opened(layout, fingerprint, facts, columns, held, overwrite, run_id)
        except BaseException:
            held.release()
            raise
        ledger._start_writer(checkpoint_every, checkpoint_seconds, background)
        return ledger

    @property
    def finished(self) -> FinalReport | None:
        """Totals of the finished output; None while there is work to do."""
        return self._manifest.totals if self._manifest.state == "complete" else None

    @property
    def manifest(self) -> Manifest:
        """The job's manifest; read it, do not write it."""
        return self._manifest

    @property
    def input_checkpoint(self) -> InputCheckpoint | None:
        """The input as far as earlier runs read it."""
        return self._manifest.input

    @property
    def num_done(self) -> int:
        """Rows done, those of earlier runs included."""
        return len(self._done)

    @property
    def num_durable(self) -> int:
        """Of those, rows that survive anything from now on."""
        return self.num_done - (0 if self._writer is None else self._writer.num_pending)

    def is_done(self, index: int) -> bool:
        """Whether the row is finished, by this run or an earlier one."""
        return index in self._done

    def attempt(self, index: int) -> int:
        """The runs in which the row was begun, this one included: the `attempt` column."""
        return self._working_journal.attempt(index)

    def inflight_tokens(self, index: int, sample: int = 0) -> list[int]:
        """Tokens that a polite stop saved for this sample; [] where none were."""
        return self._working_journal.inflight_tokens(index, sample)

    @property
    def num_inflight_tokens(self) -> int:
        """Tokens that earlier runs saved for rows not done yet."""
        return self._working_journal.num_inflight_tokens

    @property
    def deaths(self) -> Mapping[int, int]:
        """Rows not done -> how many runs died while they had them in hand."""
        return self._working_journal.deaths

    def note_crash(self) -> None:
        """The engine broke down: this run counts as one that died with its rows in hand."""
        self._working_journal.crashed = True

    def begin(self, indices: Sequence[int]) -> None:
        """Note that these rows begin (go to the engine): one small write a call."""
        self.num_recomputed += self._working_journal.begin(indices)

    def append(self, rows: Sequence[OutputRow]) -> None:
        """Take finished rows; all samples of a row in one call. A row done already is ignored.

        Durable later: by count, by age, or by `flush`. Raises what an earlier write met.
        """
        assert self._writer is not None, "the job is finished or closed"
        new = [row for row in rows if row.index not in self._done]
        for row in new:
            self._done.add(row.index)
        self._writer.append(new)

    def flush(self) -> None:
        """Return once every appended row is durable."""
        assert self._writer is not None, "the job is finished or closed"
        self._writer.flush()

    def checkpoint_input(
        self,
        rows_read: int,
        digest: str,
        sources: Iterable[Mapping[str, Any]] = (),
        *,
        at_end: bool = False,
    ) -> None:
        """Note how far the input was read, and what it was: checked when a later run reads it.

        `at_end`: these are all its rows; `status` and `merge` then know the total.
        """
        self._manifest.total_rows = rows_read if at_end else None
        self._manifest.input = InputCheckpoint(rows_read, digest, tuple(map(dict, sources)))
        self._write_manifest()

    def check_input(self, rows_read: int, digest: str) -> None:
        """FingerprintMismatchError where the checkpoint at that row says otherwise."""
        self._manifest.check_input(rows_read, digest)

    def save_inflight(self, tokens: Inflight) -> None:
        """Keep the tokens generated so far by rows in flight: (index, sample) -> token ids."""
        self._working_journal.save_inflight(tokens, self._done.contains_array)

    def finalize(self, num_rows: int, look: Callable[[], None] | None = None) -> FinalReport:
        """Write the output: every row once, in order, verified, whole. Then drop the parts.

        `look` is called between pieces of it; what it raises ends the writing, nothing is lost.
        Raises MissingRowsError (the rows named), OutputUnwritableError, OutputHeldError.
        """
        assert self._writer is not None, "the job is finished or closed"
        assert self._lock is not None
        self._writer.flush()
        parts = self._parts + self._writer.parts
        self._manifest.total_rows = num_rows
        schema = self._columns.schema(merged_late(parts))
        merge = Merge(ranked(parts), schema, self._layout.folder)
        report = write_output(
            self._layout.target,
            merge.tables() if look is None else _watched(merge.tables(), look),
            schema,
            footer_metadata(schema, self._manifest),
            OutputCheck(num_rows),
            self._lock.check,
        )
        report.duplicates_dropped = merge.duplicates
        self._complete(report)
        return report

    def close(self) -> None:
        """Make appended rows durable and give the output up. Safe to call twice."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        finally:
            if self._journal is not None:
                self._journal.close()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _working_journal(self) -> Journal:
        assert self._journal is not None, "the job is finished"
        return self._journal

    @classmethod
    def _opened(
        cls,
        layout: Layout,
        fingerprint: Mapping[str, Any],
        facts: Mapping[str, Any] | None,
        columns: Columns,
        held: OutputLock,
        overwrite: bool,
        run_id: str,
    ) -> Ledger:
        """Decide again, now as the owner, and load what earlier runs left."""
        found = decide(layout, fingerprint, overwrite)
        manifest = found.manifest
        for folder, prefix in layout.written_folders:
            remove_stale(folder, prefix)
        if manifest is None or found.finished:
            discard_work(layout)
        if manifest is None:
            manifest = Manifest(flatten(fingerprint), overwriting=overwrite)
        ledger = cls(layout, manifest, columns)
        ledger._lock = held
        if found.written is not None:
            manifest.total_rows = found.written
            ledger._complete(verified_totals(layout.target, found.written))
        elif not found.finished:
            ledger._load(dict(facts or {}), run_id)
        return ledger

    def _load(self, facts: dict[str, Any], run_id: str) -> None:
        assert self._lock is not None
        scanned = scan_parts(self._layout.parts, self._layout.damaged, self._manifest.job)
        for part, indices in scanned:
            self._parts.append(part)
            self._done.add_array(indices)
        self.num_reused = len(self._done)
        self._journal = Journal(
            self._layout.folder, self._lock.attempt, self._done.contains_array, self._lock.check
        )
        self._manifest.facts = facts
        self._manifest.note_run(self._lock.attempt, run_id)
        self._write_manifest()

    def _start_writer(self, every: int, seconds: float, background: bool) -> None:
        if self._journal is None or self._lock is None:
            return
        self._writer = PartWriter(
            self._layout.parts,
            self._manifest.job,
            self._lock.attempt,
            self._columns,
            self._lock.check,
            every=every,
            seconds=seconds,
            background=background,
        )

    def _write_manifest(self) -> None:
        assert self._lock is not None
        self._manifest.write(self._layout.manifest, self._lock.check)

    def _complete(self, report: FinalReport) -> None:
        self._manifest.state = "complete"
        self._manifest.totals = report
        self._manifest.output = output_identity(self._layout.target)
        self._write_manifest()
        discard_work(self._layout)


def _watched(tables: Iterator[pa.Table], look: Callable[[], None]) -> Iterator[pa.Table]:
    for table in tables:
        faults.reach("final.piece")
        look()
        yield table
