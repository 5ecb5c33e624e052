"""One job from its spec to its summary: model files, reader, ledger, pipeline, final file."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchgen.counts import counted
from batchgen.errors import BatchgenError, FingerprintMismatchError, OutputHeldError, StoppedError
from batchgen.job.flow.first_failures import FirstFailures
from batchgen.job.input.reader import Reader
from batchgen.job.ledger.fingerprint import facts_of, model_name
from batchgen.job.ledger.ledger import Ledger
from batchgen.job.model.files import BUILTIN_TASK, ModelFiles, model_of
from batchgen.job.output.name import check_apart, check_name, check_served
from batchgen.job.redaction import redacted
from batchgen.job.run.closing_words import closing_words, failure_words
from batchgen.job.run.input_check import check_finished_input
from batchgen.job.run.ledger_access import LedgerAccess
from batchgen.job.run.mended_input import mended_input
from batchgen.job.run.opening_words import opening_words, recorded_facts
from batchgen.job.run.retry import check_words, has_nothing_to_lose
from batchgen.job.run.runnable import check_runnable
from batchgen.job.run.summary import FailureLimit, Summary, check_beside, write_summary
from batchgen.job.run.summing_up import summary_of
from batchgen.job.spec import JobSpec
from batchgen.job.stopping.deadline import next_deadline
from batchgen.job.stopping.interruptible import interruptible
from batchgen.job.stopping.signals import Stop
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.layout import folder_of
from batchgen.job.storage.manifest import fingerprint_diff

if TYPE_CHECKING:
    from batchgen.job.run.assembly import Assembly
    from batchgen.job.run.kept_engine import Lend

__all__ = ["Prepare", "Report", "run"]

Report = Callable[[Summary], None]
Prepare = Callable[[JobSpec, ModelFiles | None, Reader], None]


def run(
    spec: JobSpec,
    *,
    stop: Stop | None = None,
    report: Report | None = None,
    prepare: Prepare | None = None,
    lend: Lend | None = None,
) -> Summary:
    """Run a job to its end, or as far as `stop` lets it; the summary holds the exit code.

    `report` gets the summary on every way out that reached the work, also where an error is then
    raised. `prepare` is called once it is known that rows are left to do: to begin importing, say.
    `lend` gives the engine, where one is kept from run to run.
    Raises BatchgenError for what INTERFACE gives an exit code of its own.
    """
    stop = stop or Stop()
    with stop.at_once("it started"):
        job = _Job(spec, stop, report or (lambda summary: None), prepare)
        job.lend = lend
        reader = job.reader()
        check_served(spec.out)
    try:
        return job.run(reader)
    except FingerprintMismatchError:
        if not has_nothing_to_lose(spec):
            raise
        job._say("what earlier runs left has no completion: it is replaced")
    anew = replace(spec, overwrite=True)
    return run(anew, stop=stop, report=report, prepare=prepare, lend=lend)


class _Job:
    """One run: what is known of it from its first moment to its last."""

    def __init__(self, spec: JobSpec, stop: Stop, report: Report, prepare: Prepare | None) -> None:
        check_words(spec)
        check_name(spec.out)
        self._limit = FailureLimit.parse(spec.max_failures)
        self._spec = spec
        self._stop = stop
        stop.deadline = next_deadline(spec.time_limit, os.environ, stop.created)
        self._report = report
        self.lend: Lend | None = None
        self._prepare = prepare
        self._started = time.monotonic()
        self._run_id = uuid.uuid4().hex[:16]
        self._folder = folder_of(spec.out, spec.checkpoint_dir)
        check_apart(spec.out, self._folder)
        if stop.deadline is not None:
            self._say(f"stops by itself before {stop.deadline.clock} ({stop.deadline.name})")
        if spec.shard is not None:
            self._say(f"shard {spec.shard} (from {spec.shard.origin})")
        self._files = self._model_files()
        self._device = "cpu" if spec.engine == "echo" else spec.device

    def run(self, reader: Reader) -> Summary:
        """The whole job; see `runner.run`."""
        spec, files = self._spec, self._files
        access = LedgerAccess(
            spec, files, reader, self._folder, self._run_id, self._stop, self._say
        )
        facts_before = recorded_facts(spec, self._folder)
        if not spec.overwrite:
            access.check_untouched()
        if spec.overwrite or not (self._folder.exists() or spec.out.exists()):
            check_runnable(self._spec, self._files)  # before anything is made, or given up
        try:
            ledger = access.open_ledger()
        except OutputHeldError as error:
            if self._spec.lock != "skip":
                raise
            self._say(f"{error.message}; skipped")
            return Summary(out=str(self._spec.out), run_id=self._run_id)
        with ledger:
            if ledger.finished is not None:
                device = ledger.manifest.facts.get("device", "auto")
                self._device = device if device != "auto" else self._device
                limit = self._spec.input.limit
                mended = mended_input(spec, reader)
                access.compared(
                    lambda: check_finished_input(ledger.manifest, reader, limit, mended)
                )
                self._say(f"nothing to do: {self._share(ledger)} is complete")
                return self._complete(ledger.finished, earlier=ledger.manifest.failures)
            self._tell_changes(facts_before)
            if self._is_of_this_input(ledger, access):
                return self._work(ledger, reader)
        with access.open_ledger() as ledger:
            return self._work(ledger, reader)

    def _is_of_this_input(self, ledger: Ledger, access: LedgerAccess) -> bool:
        """Whether earlier runs read the same; with --overwrite their work is given up, if not."""
        try:
            access.check_input(ledger.input_checkpoint)
        except FingerprintMismatchError as error:
            if not self._spec.overwrite or ledger.shard is not None:
                raise
            self._say(f"{error.message}: what was begun is discarded (--overwrite)")
            ledger.disown()
            return False
        return True

    def _model_files(self) -> ModelFiles | None:
        what = "the model's files were looked for"
        files = interruptible(lambda: model_of(self._spec), self._stop, what)
        if files is not None and files.builtin:
            self._say(f"no --model given: using the built-in model {files.name} {BUILTIN_TASK}")
        return files

    def reader(self) -> Reader:
        """The input, its first rows read."""
        reader = Reader.of_job(self._spec, self._files)
        beside = {"--summary": self._spec.summary, "--metrics-file": self._spec.metrics_file}
        for flag, path in beside.items():
            if path is not None:
                check_beside(path, flag, self._spec.out, reader.sources)
        return reader

    def _share(self, ledger: Ledger) -> str:
        """What of the output this run is to make."""
        return "the output" if ledger.shard is None else f"shard {ledger.shard}"

    def _tell_changes(self, before: dict[str, Any]) -> None:
        """Say what is recorded, not compared, and other than before; Assembly does of devices."""
        self._device_before: str | None = before.get("device")
        now = facts_of(self._spec, self._files) | {"device": self._device_before}
        for line in fingerprint_diff(before, now) if before else []:
            self._say(f"since the last run of this job: {line}")

    def _work(self, ledger: Ledger, reader: Reader) -> Summary:
        from batchgen.interpreter import tuned_interpreter
        from batchgen.job.run.assembly import Assembly  # half of what a run imports before torch

        check_runnable(self._spec, self._files)
        if ledger.num_done or ledger.shard is not None:
            reader.skip_hint(ledger.is_done)
        for text in opening_words(ledger.num_done, self._files, reader.base_params):
            self._say(text)
        if self._prepare is not None:
            self._prepare(self._spec, self._files, reader)
        assembly = Assembly(
            self._spec, self._files, reader, ledger, self._run_id, self._stop.deadline
        )
        assembly.lend = self.lend
        assembly.reader_stage.begin_early = self._prepare is not None
        assembly.device_before = self._device_before
        pipeline = assembly.pipeline(self._stop)
        try:
            with tuned_interpreter(short_turns=self._spec.engine != "echo"):
                pipeline.run()
            if pipeline.stopped:
                return self._stopped(ledger, assembly)
            report = ledger.finalize(reader.rows_read, self._check_stop_while_merging())
            return self._complete(report, (ledger, assembly))
        except BaseException as error:
            self._failed(error, ledger, assembly)
            raise

    def _check_stop_while_merging(self) -> Callable[[], None]:
        """Called for every piece of the output: StoppedError when a stop's grace is over."""
        leave_at: list[float] = []

        def check() -> None:
            if self._stop.requested and not leave_at:
                leave_at.append(time.monotonic() + self._stop.grace(self._spec.grace))
            if leave_at and time.monotonic() > leave_at[0]:
                self._stop.check("the output was written; every row is done and kept")

        return check

    def _complete(
        self,
        totals: FinalReport,
        work: tuple[Ledger, Assembly] | None = None,
        earlier: Sequence[Mapping[str, Any]] = (),
    ) -> Summary:
        """`earlier`: what the manifest keeps of failed rows, where there was nothing to do."""
        summary = self._summary(totals, work)
        if work is None:
            known = FirstFailures(earlier).commonest(totals.error_codes)
            summary = summary.updated({"failures": tuple(known)})
        if code := self._limit.exit_code(summary.errors, summary.rows):
            summary = summary.updated({"exit_code": code})
            print(redacted("\n".join(failure_words(summary))), file=sys.stderr)
        plain_prompts = work is not None and work[1].plain_prompts_for_chat
        words = closing_words(
            summary,
            worked=work is not None,
            plain_prompts=plain_prompts,
            time_in_chats=None if work is None else work[1].time_in_chats,
        )
        for text in words:
            self._say(text)
        return self._reported(summary)

    def _stopped(self, ledger: Ledger, assembly: Assembly) -> Summary:
        assembly.save()
        summary = self._summary(ledger.totals(), (ledger, assembly))
        self._say(
            f"stopped by {self._stop.reason}: {counted(summary.rows, 'row is', 'rows are')} done; "
            "run the same command again to continue"
        )
        return self._reported(summary.updated({"exit_code": StoppedError.exit_code}))

    def _failed(self, error: BaseException, ledger: Ledger, assembly: Assembly) -> None:
        """Keep what can be kept and tell how far the run came; the caller raises the error."""
        if not isinstance(error, BatchgenError):
            ledger.journal.crashed = True
        with suppress(Exception):  # the first error is the one to tell
            assembly.save()
        code = error.exit_code if isinstance(error, BatchgenError) else 1
        with suppress(Exception):
            summary = self._summary(ledger.totals(), (ledger, assembly))
            self._reported(summary.updated({"exit_code": code}))

    def _summary(self, totals: FinalReport, work: tuple[Ledger, Assembly] | None) -> Summary:
        base = Summary(
            out=str(self._spec.out),
            device=self._device,
            model=model_name(self._spec, self._files),
            run_id=self._run_id,
            shard=None if self._spec.shard is None else str(self._spec.shard),
        )
        return summary_of(base, totals, self._started, work)

    def _reported(self, summary: Summary) -> Summary:
        if self._spec.summary is not None:
            write_summary(summary, self._spec.summary)
        self._report(summary)
        return summary

    def _say(self, text: str) -> None:
        if not self._spec.quiet:
            print(redacted(f"batchgen: {text}"), file=sys.stderr, flush=True)
