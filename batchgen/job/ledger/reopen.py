"""Finished work taken up again: `--retry failed|truncated` and `--incremental`.

The rows to keep are copied, whole and unchanged, into parts of a new generation of the job, beside
all that was there; then one write of the manifest makes that generation the job. Before it nothing
has changed, after it the job is an ordinary unfinished one: rows that are in no part are computed,
a kill costs nothing, and the old output stays until the new one is whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from batchgen.engine.request import SamplingParams
from batchgen.errors import InputUnreadableError
from batchgen.job.arrow_ints import integers
from batchgen.job.ledger.completion import complete
from batchgen.job.ledger.joining import join
from batchgen.job.ledger.opening import Found, decide, discard_work
from batchgen.job.ledger.shard_manifests import furthest_input
from batchgen.job.locking.lock import OutputLock
from batchgen.job.output.output import row_groups_of, verified_totals
from batchgen.job.output.provenance import footer_manifest
from batchgen.job.row_counts import RowCounts
from batchgen.job.stopping.stop_check import StopCheck, never
from batchgen.job.storage.failed_rows import failed_rows_in, kept_failed_rows
from batchgen.job.storage.journal import write_attempts
from batchgen.job.storage.layout import Layout, list_parts
from batchgen.job.storage.manifest import Manifest, flatten
from batchgen.job.storage.part import Columns, FailedRows, PartStem
from batchgen.job.storage.parts import known_summary, read_part, write_part_table
from batchgen.job.stored_types import sortable
from batchgen.job.stores.files import make_folder
from batchgen.job.stores.places import Place, remove_all

__all__ = ["Reopened", "Reopening", "parts_of_job", "reopen", "take_up"]

_MAX_TOKENS = "sampling.max_tokens"
_DEFAULT_MAX_TOKENS = SamplingParams().max_tokens
_NO_ROWS = np.empty(0, np.int64)
_NAMES, _ANY_NAME = "columns.served_model_names", "columns.ignore_model"


@dataclass(frozen=True, slots=True)
class Reopening:
    """What a run asks of finished rows. `retry`: None, `failed` or `truncated`.

    `has_grown` tells of a finished job's manifest whether the input has more rows by now. Of any
    job it raises where the input is another one, but for failed rows that were mended: these it
    puts into the manifest. `check_stop` is called while it takes long, and ends it by raising.
    """

    layout: Layout
    fingerprint: Mapping[str, Any]
    columns: Columns
    run_id: str
    retry: str | None
    incremental: bool
    has_grown: Callable[[Manifest], bool]
    check_stop: StopCheck = never

    @property
    def label(self) -> str:
        """Kept in the manifest, so that the same command again goes on with what it began."""
        return "+".join(filter(None, [self.retry, "incremental" if self.incremental else None]))

    @property
    def whole(self) -> Reopening:
        """The same for the job of all rows."""
        return replace(self, layout=self.layout.whole)

    def goes_on(self, manifest: Manifest) -> bool:
        """Whether an earlier run began what is asked for, and did not finish."""
        return manifest.state == "running" and manifest.reopened == self.label

    def found(self) -> tuple[Mapping[str, Any], Found]:
        """The fingerprint that the job is to have, and the job as it is. With `truncated`, more
        max_tokens than before are no other job; with `failed`, more names for the model."""
        layout, expected = self.layout, self.fingerprint
        before = Manifest.read(layout.manifest) or footer_manifest(layout.record)
        if self.retry is not None and before is not None:
            as_before = _with_old_names if self.retry == "failed" else _with_old_max_tokens
            expected = as_before(flatten(expected), before.fingerprint)
        return expected, decide(layout, expected, overwrite=False)


@dataclass(frozen=True, slots=True)
class Reopened:
    """`fingerprint`: the one to open the job with. `rows` are to be computed again."""

    fingerprint: Mapping[str, Any]
    rows: int = 0
    begun: bool = False


def reopen(asked: Reopening) -> Reopened:
    """Take finished rows up again where that is needed; otherwise nothing is touched.

    Raises FingerprintMismatchError, OutputHeldError, OutputUnwritableError.
    """
    _, found = asked.found()
    if found.manifest is None or asked.goes_on(found.manifest):
        return Reopened(asked.fingerprint)
    held = join(asked.layout, asked.run_id, "fail", check_stop=asked.check_stop)
    try:
        return take_up(asked, held)
    finally:
        held.release()


def take_up(asked: Reopening, held: OutputLock) -> Reopened:
    """`reopen`, for whoever holds the job."""
    expected, found = asked.found()
    layout, manifest = asked.layout, found.manifest
    if manifest is None or asked.goes_on(manifest):
        return Reopened(asked.fingerprint)
    if found.written is not None:
        manifest.total_rows = found.written
        complete(layout, manifest, verified_totals(layout.record, found.written), held.check)
    if manifest.is_complete and not layout.record.exists():
        text = f"{layout.record} is gone, from which the rows of {layout.out} are read again"
        raise InputUnreadableError(text, "put it back, or begin afresh with --overwrite")
    grown = asked.has_grown(manifest)
    old = _OldRows(asked, manifest)
    if not len(old.again) and not (grown and asked.incremental):
        return Reopened(expected if manifest.is_complete else asked.fingerprint)
    _begin_generation(asked, manifest, old, held)
    return Reopened(asked.fingerprint, len(old.again), begun=True)


def parts_of_job(layout: Layout, manifest: Manifest) -> list[Place]:
    """Those of its own fingerprint and generation."""
    found = ((path, known_summary(path)) for path in list_parts(layout.parts))
    return [path for path, known in found if known and known.job == manifest.job]


def _with_old_max_tokens(now: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    more = now.get(_MAX_TOKENS, _DEFAULT_MAX_TOKENS) > before.get(_MAX_TOKENS, _DEFAULT_MAX_TOKENS)
    if more and _MAX_TOKENS in before:
        return now | {_MAX_TOKENS: before[_MAX_TOKENS]}
    return {k: v for k, v in now.items() if not (more and k == _MAX_TOKENS)}


def _with_old_names(now: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    fewer = before.get(_ANY_NAME) or {*before.get(_NAMES, ())} - {*now.get(_NAMES, ())}
    if fewer and not now.get(_ANY_NAME):
        return now
    names = {key: before[key] for key in (_NAMES, _ANY_NAME) if key in before}
    return {key: value for key, value in now.items() if key not in (_NAMES, _ANY_NAME)} | names


class _OldRows:
    """Rows of the output, or of an unfinished job's parts. `again`: rows, and their attempts."""

    def __init__(self, asked: Reopening, manifest: Manifest) -> None:
        layout, retry = asked.layout, asked.retry
        self.paths = parts_of_job(layout, manifest) if manifest.state == "running" else []
        self._folder, self._job_id = layout.folder, manifest.job_id
        self._output = layout.record if manifest.is_complete else None
        self._check_stop = asked.check_stop
        self.again = RowCounts.of([]) if retry is None else self._bad(retry)

    def _bad(self, retry: str) -> RowCounts:
        found = [(_NO_ROWS, _NO_ROWS)]
        for table in self._tables(["index", "status", "finish_reason", "attempt"]):
            table = table.filter(_is_bad(table, retry))
            found.append((integers(table["index"]), integers(table["attempt"])))
        rows, attempts = map(np.concatenate, zip(*found, strict=True))
        return RowCounts.first_of(rows, attempts)

    def failed(self) -> FailedRows:
        """What is known of rows that failed, and may stay."""
        if self._output is None:
            return failed_rows_in(self.paths) or {}
        return kept_failed_rows(self._folder, self._job_id) or {}

    def kept(self) -> Iterator[pa.Table]:
        """Rows that stay, each with all of its samples in one table."""
        for table in self._tables(None):
            if len(self.again):
                again = self.again.contains_array(integers(table["index"]))
                table = table.filter(pa.array(~again))
            if table.num_rows:
                yield table

    def _tables(self, columns: list[str] | None) -> Iterator[pa.Table]:
        if self._output is not None:
            for table in _whole_rows(row_groups_of(self._output, columns)):
                self._check_stop()
                yield sortable(table)
        for path in self.paths:
            self._check_stop()
            table = read_part(path)
            if table is not None:  # else it is damaged: its rows are computed again
                table = sortable(table)
                yield table if columns is None else table.select(columns)


def _is_bad(table: pa.Table, retry: str) -> Any:
    import pyarrow.compute as pc

    if retry == "failed":
        mask = pc.equal(table["status"], "error")
    else:
        mask = pc.equal(table["finish_reason"], "length")
    return pc.fill_null(mask, False)


def _whole_rows(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, cut so that no row's samples lie in two tables."""
    rest: pa.Table | None = None
    for table in tables:
        table = table if rest is None else pa.concat_tables([rest, table])
        index = integers(table["index"])
        cut = int(np.searchsorted(index, index[-1])) if len(index) else 0
        if cut:
            yield table.slice(0, cut)
        rest = table.slice(cut)
    if rest is not None and rest.num_rows:
        yield rest


def _begin_generation(
    asked: Reopening, manifest: Manifest, old: _OldRows, held: OutputLock
) -> None:
    """Copy what is kept, then switch by writing the manifest, then drop what was copied."""
    layout = asked.layout
    new = replace(
        manifest,
        fingerprint=flatten(asked.fingerprint),
        job_id=uuid.uuid4().hex,
        generation=uuid.uuid4().hex,
        replaces=manifest.job_id if manifest.is_complete else manifest.replaces,
        reopened=asked.label,
        input=furthest_input(layout, manifest),
        state="running",
        total_rows=None,
        totals=None,
        output=None,
        failures=[] if asked.retry == "failed" else manifest.failures,
    )
    if manifest.is_complete:
        discard_work(layout)  # what a run left that died right after it had finished
    # The new generation's parts count for nothing until the manifest names it, and the old ones go
    # only after that: a kill in between loses neither.
    make_folder(layout.parts)
    failed = old.failed()
    for seq, table in enumerate(old.kept(), 1):
        stem = PartStem(new.job, held.attempt, seq)
        write_part_table(layout.parts, stem, table, asked.columns, held.check, failed)
    write_attempts(layout.work, old.again, held.check)
    new.write(layout.manifest, held.check)
    remove_all(old.paths)
