"""A run's way to its ledger: past `--retry` and `--incremental` and whoever holds the output; and
out again by a signal, while nothing is begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from batchgen.engine.request import SamplingParams
from batchgen.errors import FingerprintMismatchError, OutputHeldError
from batchgen.job.input.reader import Reader
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.ledger.fingerprint import facts_of, fingerprint_of
from batchgen.job.ledger.ledger import Ledger
from batchgen.job.ledger.opening import decide
from batchgen.job.ledger.reopen import Reopening
from batchgen.job.ledger.shard_manifests import furthest_input
from batchgen.job.locking.lock import is_held
from batchgen.job.model.files import ModelFiles
from batchgen.job.run.input_check import check_limit, check_resumed_input
from batchgen.job.run.mended_input import mended_input
from batchgen.job.run.retry import grown_input, reopened
from batchgen.job.spec import JobSpec
from batchgen.job.stopping.interruptible import interruptible
from batchgen.job.stopping.signals import Stop
from batchgen.job.storage.layout import Layout
from batchgen.job.storage.part import Columns
from batchgen.job.stores.places import Place

__all__ = ["LedgerAccess"]

_LOCK_POLL_S = 0.5
_Result = TypeVar("_Result")


class LedgerAccess:
    """Of one run. `say` tells the user what happens."""

    def __init__(
        self,
        spec: JobSpec,
        files: ModelFiles | None,
        reader: Reader,
        folder: Place,
        run_id: str,
        stop: Stop,
        say: Callable[[str], None],
    ) -> None:
        self._spec, self._files, self._reader = spec, files, reader
        self._layout = Layout(folder, spec.out, spec.shard, spec.form)
        self._run_id = run_id
        self._stop, self._say = stop, say
        self._agreed: InputCheckpoint | None = None
        self._columns = Columns(tuple(reader.kept_schema), _optional(spec, reader.base_params))

    def open_ledger(self) -> Ledger:
        """The ledger; with `--lock wait` once the holder is gone.

        Raises FingerprintMismatchError, OutputHeldError, OutputUnwritableError, and StoppedError
        where a signal ends the waiting.
        """
        told = ""
        while True:
            try:
                return self._opened()
            except OutputHeldError as error:
                if self._spec.lock != "wait":
                    raise
                self._stop.check(f"waiting: {error.message}")
                if told != error.message:
                    self._say(f"waiting: {(told := error.message)}")
            time.sleep(_LOCK_POLL_S)

    def _reopened(self) -> Mapping[str, Any]:
        """The fingerprint to open the job with, after --retry and --incremental had their say."""
        spec, has_grown = self._spec, grown_input(self._spec, self._reader)
        asked = Reopening(
            self._layout,
            fingerprint_of(spec, self._files),
            self._columns,
            self._run_id,
            retry=spec.retry,
            incremental=spec.incremental,
            has_grown=lambda manifest: self.compared(lambda: has_grown(manifest)),
            check_stop=self._check_stop_while_waiting,
        )
        return reopened(asked, self._say)

    def _opened(self) -> Ledger:
        spec = self._spec
        return Ledger.open(
            self._layout,
            self._reopened(),
            facts_of(spec, self._files),
            run_id=self._run_id,
            columns=self._columns,
            checkpoint_every=spec.checkpoint_every,
            checkpoint_seconds=spec.checkpoint_seconds,
            overwrite=spec.overwrite,
            check_stop=self._check_stop_while_waiting,
        )

    def check_untouched(self) -> None:
        """Refuse another input before a lock is taken or a word is written, while nobody is at
        work there. Raises FingerprintMismatchError."""
        layout = self._layout
        if self._spec.retry is not None or self._spec.incremental or is_held(layout.work):
            return
        manifest = decide(layout, fingerprint_of(self._spec, self._files), False).manifest
        if manifest is not None and not manifest.is_complete:
            try:
                self.check_input(furthest_input(layout.whole, manifest))
            except FingerprintMismatchError as changed:
                told = partial(mended_input(self._spec, self._reader), manifest, changed)
                self.compared(told)  # raises: only with --retry is it another thing
            check_limit(layout, manifest, self._spec.input.limit)

    def check_input(self, checkpoint: InputCheckpoint | None) -> None:
        """The rows that earlier runs read must still be there; each record is compared once.

        Raises FingerprintMismatchError.
        """
        if checkpoint != self._agreed:
            self.compared(lambda: check_resumed_input(checkpoint, self._reader))
            self._agreed = checkpoint

    def _check_stop_while_waiting(self) -> None:
        self._stop.check("what earlier runs left was taken up; nothing is lost")

    def compared(self, check: Callable[[], _Result]) -> _Result:
        """What a check of the input finds, which may read all of it."""
        return interruptible(
            check, self._stop, "the input was compared with what earlier runs read"
        )


def _optional(spec: JobSpec, params: SamplingParams) -> frozenset[str]:
    """Columns that the job's flags ask for, whatever its rows have."""
    wanted = {
        "token_ids": spec.save_token_ids,
        "logprobs": params.logprobs is not None,
        "token_texts": params.logprobs is not None,
        "top_logprobs": params.top_logprobs > 0,
        "prompt_logprobs": params.prompt_logprobs is not None,
        "prompt_logprob_sum": params.prompt_logprobs is not None,
        "prompt_token_texts": params.prompt_logprobs is not None,
        "prompt_top_logprobs": bool(params.prompt_logprobs),
        "tool_calls": spec.tool_call_parser not in ("auto", "none"),
        "choice": bool(params.choices),
        "choice_probs": bool(params.choices),
    }
    return frozenset(name for name, is_wanted in wanted.items() if is_wanted)
