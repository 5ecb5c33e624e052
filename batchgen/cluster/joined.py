"""`--join`: any number of processes make one output, without a number of shards agreed.

The job is cut into pieces (shards of many, 64 at first). A process claims one that nobody holds,
runs it as any shard is run, and claims the next: a claim is made by creating the next attempt's
file or object, which succeeds once, and its heartbeat is a lease that expires 60 s after the last
one; on the same host a dead process is known at once. So processes may come and go at any time, by
kill -9 too, and what one had finished is kept. Whoever finds all pieces complete merges; one can.

The pieces need no agreement: where two splits meet, rows are keyed by their index all the same.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace

from batchgen.counts import counted
from batchgen.errors import OutputHeldError, StoppedError, UsageError
from batchgen.job.locking.lock import is_held
from batchgen.job.run.kept_engine import KeptEngine
from batchgen.job.run.runner import Prepare, Report
from batchgen.job.run.runner import run as run_job
from batchgen.job.run.summary import FailureLimit, Summary, write_summary
from batchgen.job.run.summing_up import summary_of
from batchgen.job.shard import Shard
from batchgen.job.spec import JobSpec
from batchgen.job.stopping.signals import Stop
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.layout import Layout, folder_of
from batchgen.job.storage.manifest import is_complete
from batchgen.job.verbs.merge_job import merge_output

__all__ = ["run_joined"]

_log = logging.getLogger(__name__)
_POLL_S = 0.5


def run_joined(
    spec: JobSpec, *, stop: Stop, report: Report | None = None, prepare: Prepare | None = None
) -> Summary:
    """Take part in the job until its output is there; the summary's totals are the output's, its
    `computed` this process's. Raises what `runner.run` and the merge raise."""
    for flag in ("overwrite", "retry", "incremental"):
        if getattr(spec, flag):
            raise UsageError(
                f"--{flag} and --join are both given: who comes last would begin again",
                f"let one process run --{flag} alone, or the first one of several as --shard 0/N",
            )
    kept = KeptEngine()
    try:
        return _Joined(spec, stop, report or (lambda summary: None), prepare, kept).run()
    finally:
        kept.close()


class _Joined:
    """One process of them."""

    def __init__(
        self, spec: JobSpec, stop: Stop, report: Report, prepare: Prepare | None, kept: KeptEngine
    ) -> None:
        self._spec, self._stop, self._report, self._prepare = spec, stop, report, prepare
        self._kept = kept
        self._layout = Layout(folder_of(spec.out, spec.checkpoint_dir), spec.out, None, spec.form)
        self._limit = FailureLimit.parse(spec.max_failures)
        self._computed = 0
        self._started = time.monotonic()
        self._last: Summary | None = None

    def run(self) -> Summary:
        """Piece after piece; then the merge."""
        while not self._is_complete():
            piece = self._next_piece()
            if piece is None:
                if self._all_complete():
                    return self._merged()
                self._stop.check("other processes had the last pieces")
                time.sleep(_POLL_S)
                continue
            summary = self._tried(piece)
            if summary is not None and summary.exit_code == StoppedError.exit_code:
                return self._stopped(summary)
        if self._last is not None:
            return self._merged()  # its totals: another one wrote the output
        return run_job(replace(self._spec, join=False), stop=self._stop, report=self._report)

    def _tried(self, piece: Layout) -> Summary | None:
        """Run a piece; None: somebody else was quicker."""
        spec = replace(
            self._spec, join=False, shard=piece.shard, lock="fail", max_failures="100%",
            quiet=True, summary=None,
        )  # fmt: skip
        try:
            summary = run_job(spec, stop=self._stop, prepare=self._prepare, lend=self._kept.lend)
        except OutputHeldError:
            if is_held(self._layout.work) and not self._all_complete():
                raise  # a run of all rows, which needs no help
            return None
        self._prepare, self._last = None, summary
        self._computed += summary.computed
        return summary

    def _stopped(self, piece: Summary) -> Summary:
        """Say why, and what this process did: its last piece's own numbers tell nobody anything."""
        if not self._spec.quiet:
            rows = counted(self._computed, "row was", "rows were")
            text = f"stopped by {self._stop.reason}: {rows} computed here; run the same command "
            _log.warning("%sagain to continue", text)
        summary = piece.updated({"computed": self._computed, "shard": None})
        self._report(summary)
        return summary

    def _is_complete(self) -> bool:
        return is_complete(self._layout.manifest)

    def _pieces(self) -> list[Layout]:
        """Of the finest split that was begun, else of the one that is asked for."""
        begun = [found.shard.count for found in self._layout.shards_begun() if found.shard]
        count = max(begun, default=self._spec.join_pieces)
        return [
            replace(self._layout, shard=Shard(index, count, "--join")) for index in range(count)
        ]

    def _next_piece(self) -> Layout | None:
        """One that is neither complete nor held, by a place of one's own to begin at."""
        pieces = self._pieces()
        start = os.getpid() * 7 % len(pieces)
        for piece in pieces[start:] + pieces[:start]:
            if not _is_done(piece) and not is_held(piece.work):
                return piece
        return None

    def _all_complete(self) -> bool:
        return all(map(_is_done, self._pieces()))

    def _merged(self) -> Summary:
        """Write the output, or wait for whoever does."""
        folder = self._layout.folder
        totals = merge_output(self._spec.out, folder, lock="wait")
        summary = self._summary(totals)
        if self._spec.summary is not None:
            write_summary(summary, self._spec.summary)
        self._report(summary)
        return summary

    def _summary(self, totals: FinalReport) -> Summary:
        base = self._last or Summary(out=str(self._spec.out))
        code = self._limit.exit_code(totals.errors, totals.rows)
        mine = {"computed": self._computed, "reused": totals.rows - self._computed}
        whole = summary_of(base, totals, self._started, None)
        return whole.updated(mine | {"exit_code": code, "shard": None})


def _is_done(piece: Layout) -> bool:
    return is_complete(piece.own_manifest)
