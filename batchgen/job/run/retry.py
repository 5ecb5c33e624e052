"""`--retry` and `--incremental` of a run: what they may be combined with, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchgen.counts import counted
from batchgen.devices import check_device_name
from batchgen.errors import UsageError
from batchgen.job.input.reader import Reader
from batchgen.job.ledger.opening import holds_no_completion
from batchgen.job.ledger.reopen import Reopening, reopen
from batchgen.job.ledger.reopen_shard import reopen_shard
from batchgen.job.run.input_check import check_begun_input, check_finished_input, has_grown
from batchgen.job.run.mended_input import mended_input
from batchgen.job.spec import JobSpec
from batchgen.job.storage.layout import Layout, folder_of
from batchgen.job.storage.manifest import Manifest

__all__ = ["check_words", "grown_input", "has_nothing_to_lose", "reopened"]


def check_words(spec: JobSpec) -> None:
    """Refuse flags that contradict each other, and a device that is none. Raises UsageError."""
    check_device_name(spec.device)
    flag = "--retry" if spec.retry is not None else "--incremental" if spec.incremental else None
    if flag is not None and spec.overwrite:
        raise UsageError(f"{flag} keeps finished rows and --overwrite discards them", "give one")


def has_nothing_to_lose(spec: JobSpec) -> bool:
    """Whether a job that is refused as another one may begin afresh: no row has a completion."""
    if spec.overwrite or spec.retry is not None or spec.incremental:
        return False
    folder = folder_of(spec.out, spec.checkpoint_dir)
    return holds_no_completion(Layout(folder, spec.out, None, spec.form))


def grown_input(spec: JobSpec, reader: Reader) -> Callable[[Manifest], bool]:
    """Asks of a finished job's manifest whether the input has more rows by now; of --retry alone,
    or of a job that is not finished, whether it is the same one, but for rows that failed.
    Raises FingerprintMismatchError where it is not."""
    mended = mended_input(spec, reader)

    def ask(manifest: Manifest) -> bool:
        if not manifest.is_complete:
            check_begun_input(manifest, reader, mended)
            return False
        if spec.incremental:
            return has_grown(manifest, reader, spec.input.limit, mended)
        check_finished_input(manifest, reader, spec.input.limit, mended)
        return False

    return ask


def reopened(asked: Reopening, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Take finished rows up again where that is asked for; the fingerprint to open the job with.

    Raises FingerprintMismatchError, OutputHeldError, OutputUnwritableError.
    """
    if not asked.label:
        return asked.fingerprint
    sharded = asked.layout.shard is not None
    done = reopen_shard(asked) if sharded else reopen(asked)
    if asked.retry is not None and done.begun:
        all_shards = ", in all shards" if sharded else ""
        rows = counted(done.rows, "row is", "rows are")
        say(f"--retry {asked.retry}: {rows} computed again{all_shards}")
    return done.fingerprint
