"""Puts one run's pipeline together from its spec, its ledger and its reader."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from batchgen.engine.request import Engine
from batchgen.job.flow.engine_faults import engine_faults
from batchgen.job.flow.engine_stage import EngineStage, EngineStageOptions
from batchgen.job.flow.first_failures import FirstFailures
from batchgen.job.flow.pace import Pace
from batchgen.job.flow.pipeline import Pipeline
from batchgen.job.flow.progress import Live, Reporter, make_reporter
from batchgen.job.flow.quarantine import SUSPECT, Suspects
from batchgen.job.flow.reader_stage import ReaderStage
from batchgen.job.flow.slow_engine import slowed
from batchgen.job.flow.writer_stage import WriterStage, finished_rows
from batchgen.job.input.estimate import estimated_rows
from batchgen.job.input.reader import Reader
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.ledger.ledger import Ledger
from batchgen.job.model.files import ModelFiles
from batchgen.job.redaction import redacted
from batchgen.job.run.kept_engine import Lend
from batchgen.job.run.metrics_file import MetricsFile, Reporters
from batchgen.job.run.stages import (
    begin_job_engine,
    load_job_codec,
    load_job_engine,
    make_requests,
    make_results,
)
from batchgen.job.spec import JobSpec
from batchgen.job.stopping.deadline import Deadline
from batchgen.job.stopping.signals import Stop
from batchgen.job.text.prepared import FailedRow
from batchgen.job.text.requests import Requests
from batchgen.job.text.text_codec import TextCodec

if TYPE_CHECKING:
    from batchgen.engine.processes.fleet import Fleet

__all__ = ["Assembly"]

_log = logging.getLogger(__name__)
_INPUT_CHECKPOINT_S = 5.0


class Assembly:
    """The stages of one run, and the numbers they leave behind."""

    def __init__(
        self,
        spec: JobSpec,
        files: ModelFiles | None,
        reader: Reader,
        ledger: Ledger,
        run_id: str,
        deadline: Deadline | None = None,
    ) -> None:
        self._spec, self._files = spec, files
        self._reader, self._ledger = reader, ledger
        self._codec: TextCodec | None = None
        self._faults = engine_faults()
        self.device_before: str | None = None
        self.lend: Lend | None = None
        self._begun: Fleet | None = None
        self._made_requests: Requests | None = None
        self._input_read = InputCheckpoint(0, "")
        self._finished = finished_rows()
        self.live = Live(reused=ledger.num_done)
        self._expect(estimated_rows(reader.sources, spec.input.limit))
        self.reader_stage = ReaderStage(
            reader,
            self._requests,
            fail=self._fail,
            on_chunk=self._note_input,
            stop_rows=reader.stop,
        )
        self.engine_stage = EngineStage(
            self._load_engine,
            self.reader_stage.ready,
            self._finished,
            begin=ledger.begin,
            live=self.live,
            options=self._engine_options(deadline),
        )
        self.writer_stage = self._make_writer_stage(run_id)

    @property
    def plain_prompts_for_chat(self) -> bool:
        """Whether a chat model got prompts outside its template: perhaps not what was meant."""
        chat_model = self._files is not None and self._files.chat_template is not None
        made = self._made_requests
        return chat_model and made is not None and made.saw_plain_prompt

    @property
    def num_cut(self) -> int:
        """Prompts that were cut to fit."""
        return 0 if self._made_requests is None else self._made_requests.num_cut

    @property
    def time_in_chats(self) -> str | None:
        """The moment that went into prompts because the job began then; None: nobody saw it."""
        made, codec = self._made_requests, self._codec
        if made is None or not made.saw_chat or self._spec.template_time is not None:
            return None
        if codec is None or codec.template is None or not codec.template.reads_clock:
            return None
        return self._ledger.manifest.template_time.isoformat()

    def pipeline(self, stop: Stop) -> Pipeline:
        """The stages, to be run once."""
        spec = self._spec
        return Pipeline(
            self.reader_stage,
            self.engine_stage,
            self.writer_stage,
            self._finished,
            stop=stop,
            grace=spec.grace,
            reporter=self._reporter(),
        )

    def _reporter(self) -> Reporter:
        spec = self._spec
        shown = make_reporter(self.live, spec.progress, quiet=spec.quiet)
        if spec.metrics_file is None:
            return shown
        labels = {"out": redacted(str(spec.out))} | (
            {"shard": str(spec.shard)} if spec.shard else {}
        )
        return Reporters([shown, MetricsFile(self.live, spec.metrics_file, labels)])

    def save(self) -> None:
        """What is finished becomes durable, and what is in flight is kept for the next run."""
        self._ledger.flush()
        if self.engine_stage.inflight:
            self._ledger.save_inflight(self.engine_stage.inflight)

    def _engine_options(self, deadline: Deadline | None) -> EngineStageOptions:
        deaths, suspected = self._ledger.journal.deaths, self._has_suspects()
        return EngineStageOptions(
            pace=None if deadline is None else Pace(deadline.leave_at),
            row_timeout=self._spec.row_timeout,
            suspects=Suspects(lambda index: deaths.get(index, 0)) if suspected else None,
            is_durable=self._is_durable,
            begun=self._engine_begun,
        )

    def _has_suspects(self) -> bool:
        return max(self._ledger.journal.deaths.values(), default=0) >= SUSPECT

    def _is_durable(self, index: int) -> bool:
        """Called on the engine's thread while nothing is handed to the writing one."""
        if not self._ledger.is_done(index):
            return False
        self._ledger.flush()
        return True

    def _make_writer_stage(self, run_id: str) -> WriterStage:
        spec, ledger = self._spec, self._ledger
        results = make_results(spec, self._loaded_codec, ledger.journal.attempt, run_id)
        return WriterStage(
            self._finished,
            results,
            ledger,
            checkpoint=self._checkpoint_input,
            checkpoint_seconds=min(spec.checkpoint_seconds, _INPUT_CHECKPOINT_S),
            live=self.live,
            failures=FirstFailures(ledger.manifest.failures),
        )

    def _requests(self) -> Requests:
        """Load the tokenizer. Called on the reading thread, before any row reaches the engine."""
        spec, ledger = self._spec, self._ledger
        codec = load_job_codec(spec, self._files, ledger.manifest.template_time)
        self._codec = codec
        journal = ledger.journal
        inflight_tokens = journal.inflight_tokens if journal.num_inflight_tokens else None
        self._made_requests = make_requests(spec, self._files, codec, inflight_tokens)
        if self._faults is not None:
            self._faults.watching(self._made_requests)
        return self._made_requests

    def _loaded_codec(self) -> TextCodec:
        assert self._codec is not None, "a row finished before the tokenizer was loaded"
        return self._codec

    @contextmanager
    def _engine_begun(self) -> Iterator[None]:
        """Processes of its own load it while this one reads the first rows."""
        if self.lend is None:
            self._begun = begin_job_engine(self._spec, self._files, apart=self._has_suspects())
        try:
            yield
        finally:
            if self._begun is not None:  # no row needed it
                self._begun.close()

    def _load_engine(self) -> Engine:
        engine = slowed(self._load)
        self._note_device(engine.stats().device)
        return engine if self._faults is None else self._faults.fitted(engine)

    def _note_device(self, device: str) -> None:
        """Manifest and footer name the place itself, whatever --device left open; another one than
        in the run before is said."""
        if device:
            self._ledger.manifest.facts["device"] = device
            if self.device_before not in (None, "auto", device):
                text = "since the last run of this job: device: %r -> %r"
                _log.warning(text, self.device_before, device)

    def _load(self) -> Engine:
        apart = self._has_suspects()
        if apart and self._spec.devices is None:
            _log.warning("rows may have killed earlier runs: the engine runs in its own process")
        begun, self._begun = self._begun, None
        load = partial(load_job_engine, self._spec, self._files, apart=apart, begun=begun)
        return load() if self.lend is None else self.lend(load, apart)

    def _fail(self, rows: list[FailedRow]) -> None:
        self._finished.put(list(rows))

    def _note_input(self) -> None:
        """After a chunk, on the reading thread: how far the input was read, and what it was."""
        self._input_read = self._reader.digest.checkpoint()
        if self.reader_stage.read_to_end:
            self._expect(self._reader.rows_read)

    def _expect(self, rows: int | None) -> None:
        """So many rows the input has; of them this run has to do its shard's."""
        shard = self._spec.shard
        self.live.total_rows = rows if rows is None or shard is None else shard.num_rows(rows)
        if self._ledger.manifest.runs:  # so that `status` knows about how far it is
            self._ledger.manifest.runs[-1]["rows_expected"] = rows

    def _checkpoint_input(self) -> int:
        """On the writing thread, which alone writes the manifest; how many rows were read."""
        read = self._input_read
        if read.rows_read or self.reader_stage.read_to_end:
            self._ledger.manifest.failures = self.writer_stage.failures.kept()
            sources = tuple(self._reader.identity())
            self._ledger.checkpoint_input(replace(read, sources=sources))
        return read.rows_read
