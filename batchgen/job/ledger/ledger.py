"""The ledger of a job: which rows are done, and their answers, whatever happens to the process.

Invariants, each with a test in tests/test_ledger_properties.py:

1.  A row that was appended before a `flush` that returned is done in every later run.
2.  All samples of a row are committed by one rename, so a row in a part is a whole row.
3.  A part counts only if it has the checksum in its name; else its rows are computed again.
4.  The output has every row from 0 to num_rows - 1 exactly once, sorted by (index, sample), or it
    is not written.
5.  The output appears by one rename; until then the old one, if any, is untouched. A part is
    removed only after the manifest says that the output is complete.
6.  Of two processes that both believe they own the output only the one with the highest attempt
    commits; whatever they interleave, no row is twice in the output (the first commit wins).
7.  Nothing is touched where the fingerprint differs, unless `overwrite`.
8.  At most `checkpoint_every` finished rows are not durable (one `append`'s rows, if more).
9.  Memory is one bit a row, besides rows not yet durable and rows begun in vain by earlier runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.ledger import shard_work
from batchgen.job.ledger.completion import complete_written, write_whole
from batchgen.job.ledger.done_rows import DoneRows
from batchgen.job.ledger.joining import begin_where_none, join
from batchgen.job.ledger.opening import decide, has_leftovers, sweep
from batchgen.job.ledger.shard_manifests import furthest_input
from batchgen.job.locking.lock import OutputLock, is_held
from batchgen.job.rows import OutputRow
from batchgen.job.shard import Shard
from batchgen.job.stopping.stop_check import StopCheck, never
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.journal import Inflight, Journal
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.manifest import Manifest
from batchgen.job.storage.part import Columns, PartStem
from batchgen.job.storage.part_writer import PartWriter

__all__ = ["Ledger"]


class Ledger(AbstractContextManager["Ledger"]):
    """One job's finished rows. One thread may append while another begins and asks for rows."""

    def __init__(self, layout: Layout, manifest: Manifest, columns: Columns) -> None:
        self._layout = layout
        self._manifest = manifest
        self._columns = columns
        self._known = DoneRows(layout)
        self._done = self._known.rows
        self._lock: OutputLock | None = None
        self._journal: Journal | None = None
        self._writer: PartWriter | None = None
        self.num_recomputed = 0

    @classmethod
    def open(
        cls,
        layout: Layout,
        fingerprint: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        *,
        run_id: str,
        columns: Columns | None = None,
        checkpoint_every: int = 1000,
        checkpoint_seconds: float = 30.0,
        overwrite: bool = False,
        background: bool = True,
        check_stop: StopCheck = never,
    ) -> Ledger:
        """Begin a job, continue it, or find it finished (`finished` is then set, nothing locked).

        `fingerprint` may nest; it decides whether this is the same job. `check_stop`, called while
        others come in and earlier rows are looked at, may raise. Raises FingerprintMismatchError,
        OutputHeldError, OutputUnwritableError.
        """
        columns = columns or Columns()
        found = decide(layout, fingerprint, overwrite)
        if found.manifest is not None and found.finished and not has_leftovers(layout):
            return cls(layout, found.manifest, columns)
        if found.finished or found.written is not None:
            layout = layout.whole  # nothing is left to do but to clean up after a dead run
        begin = partial(begin_where_none, layout, fingerprint, overwrite, facts or {})
        held = join(layout, run_id, "fail", begin, check_stop)
        try:
            load = partial(cls._load, facts=dict(facts or {}), run_id=run_id, check_stop=check_stop)
            ledger = cls._opened(layout, fingerprint, columns, held, overwrite, load)
        except BaseException:
            held.release()
            raise
        ledger._start_writer(checkpoint_every, checkpoint_seconds, background)
        return ledger

    @property
    def finished(self) -> FinalReport | None:
        """Totals of the finished output; None while there is work to do."""
        return self._manifest.totals if self._manifest.is_complete else None

    @property
    def shard(self) -> Shard | None:
        """The rows it is about; None: all, also where a shard finds the whole output complete."""
        return None if self._manifest.output is not None else self._layout.shard

    @property
    def manifest(self) -> Manifest:
        """The job's manifest; read it, and write nothing of it but `facts` and `failures`."""
        return self._manifest

    @property
    def input_checkpoint(self) -> InputCheckpoint | None:
        """The input as far as earlier runs read it."""
        return furthest_input(self._layout, self._manifest)

    @property
    def num_done(self) -> int:
        """Rows done, those of earlier runs included."""
        return len(self._done)

    def totals(self) -> FinalReport:
        """Of all rows that are done and durable."""
        return self._known.totals()

    def is_done(self, index: int) -> bool:
        """Whether the row is finished, by this run or an earlier one."""
        return index in self._done

    @property
    def journal(self) -> Journal:
        """Which rows were begun, in which runs, and the tokens that a stop saved."""
        assert self._journal is not None, "the job is finished"
        return self._journal

    def begin(self, indices: Sequence[int]) -> None:
        """Note that these rows begin (go to the engine): one small write a call."""
        self.num_recomputed += self.journal.begin(indices)

    def append(self, rows: Sequence[OutputRow]) -> None:
        """Take finished rows; all samples of a row in one call. A row done already is ignored.

        Durable later: by count, by age, or by `flush`. Raises what an earlier write met.
        """
        assert self._writer is not None, "the job is finished or closed"
        new = [row for row in rows if row.index not in self._done]
        for row in new:
            # Durable later: after a crash the next run asks the parts what is done.
            self._done.add(row.index)
        self._writer.append(new)

    def flush(self) -> None:
        """Return once every appended row is durable."""
        assert self._writer is not None, "the job is finished or closed"
        self._writer.flush()

    def checkpoint_input(self, read: InputCheckpoint) -> None:
        """Note how far the input was read, and what it was: checked when a later run reads it."""
        before = self._manifest.input
        if before is not None and before.rows_read > read.rows_read:
            read = replace(before, sources=read.sources)  # rows past those read now may be done
        self._manifest.total_rows = None
        self._manifest.input = read
        self._write_manifest()
        if self._layout.shard is not None:
            self._known.load(self._manifest.job)  # what runs of other shardings finished meanwhile

    def save_inflight(self, tokens: Inflight) -> None:
        """Keep the tokens generated so far by rows in flight: (index, sample) -> token ids."""
        self.journal.save_inflight(tokens, self._known.settled)

    def finalize(self, num_rows: int, check_stop: StopCheck = never) -> FinalReport:
        """Write the output: every row once, in order, verified, whole. Then drop the parts.

        A shard writes none: its rows must all be there, and stay for the merge. `check_stop` is
        called between pieces of the output; what it raises ends the writing, nothing is lost.
        Raises MissingRowsError (the rows named), OutputUnwritableError, OutputHeldError.
        """
        assert self._writer is not None, "the job is finished or closed"
        assert self._lock is not None
        self._writer.flush()
        self._manifest.total_rows = num_rows
        if self._layout.shard is not None:
            self._known.load(self._manifest.job)
            report = shard_work.finish_shard(self._layout, self._manifest, self._known)
            self._write_manifest()
            return report
        parts, guard = self._known.parts, self._lock.check
        return write_whole(self._layout, self._manifest, parts, self._columns, guard, check_stop)

    def disown(self) -> None:
        """What was begun is of another job, to --overwrite too: opened again, it is discarded."""
        self._manifest.overwriting = False
        self._write_manifest()

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

    def __exit__(self, *exc: object) -> None:
        self.close()

    @classmethod
    def _opened(
        cls,
        layout: Layout,
        fingerprint: Mapping[str, Any],
        columns: Columns,
        held: OutputLock,
        overwrite: bool,
        load: Callable[[Ledger], None],
    ) -> Ledger:
        """Decide again, now as the owner, and load what earlier runs left."""
        found = decide(layout, fingerprint, overwrite and layout.shard is None)
        sweep(layout)
        ledger = cls(
            layout, shard_work.manifest_to_use(layout, found, fingerprint, overwrite), columns
        )
        ledger._lock = held
        if found.written is not None:
            complete_written(layout, ledger._manifest, found.written, held.check)
        elif not found.finished:
            load(ledger)
        return ledger

    def _load(self, facts: dict[str, Any], run_id: str, check_stop: StopCheck) -> None:
        assert self._lock is not None
        layout, manifest, held = self._layout, self._manifest, self._lock
        self._known.load(manifest.job, check_stop)
        if shard_work.is_still_complete(layout, manifest, len(self._done)):
            return
        others = [other.work for other in layout.others_with_my_rows() if not is_held(other.work)]
        self._journal = Journal(
            layout.work, held.attempt, manifest.birth, self._known.settled, held.check, others
        )
        manifest.form = layout.form.to_dict()
        manifest.note_run(self._lock.attempt, run_id, facts)
        self._write_manifest()

    def _start_writer(self, every: int, seconds: float, background: bool) -> None:
        if self._journal is None or self._lock is None:
            return
        self._writer = PartWriter(
            self._layout.parts,
            PartStem(self._manifest.job, self._lock.attempt, 0, self._layout.label),
            self._columns,
            self._lock.check,
            every=every,
            seconds=seconds,
            background=background,
        )
        self._known.written = self._writer.parts

    def _write_manifest(self) -> None:
        assert self._lock
        self._manifest.write(self._layout.own_manifest, self._lock.check)
