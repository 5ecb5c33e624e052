"""`--retry` and `--incremental` of a run: what they may be combined with, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchgen.errors import UsageError
from batchgen.job.input_check import check_finished_input, has_grown
from batchgen.job.layout import Layout
from batchgen.job.manifest import Manifest
from batchgen.job.parts import Columns
from batchgen.job.reader import Reader
from batchgen.job.reopen import Reopening, reopen
from batchgen.job.reopen_shard import reopen_shard
from batchgen.job.spec import JobSpec

__all__ = ["check_words", "reopened"]


def check_words(spec: JobSpec) -> None:
    """Refuse flags that contradict each other. Raises UsageError."""
    flag = "--retry" if spec.retry is not None else "--incremental" if spec.incremental else None
    if flag is not None and spec.overwrite:
        raise UsageError(f"{flag} keeps finished rows and --overwrite discards them", "give one")


def reopened(
    spec: JobSpec,
    layout: Layout,
    fingerprint: Mapping[str, Any],
    columns: Columns,
    reader: Reader,
    run_id: str,
    say: Callable[[str], None],
) -> Mapping[str, Any]:
    """Take finished rows up again as the flags ask; the fingerprint to open the job with.

    Raises FingerprintMismatchError, OutputHeldError, OutputUnwritableError.
    """
    if spec.retry is None and not spec.incremental:
        return fingerprint

    def look(manifest: Manifest) -> bool:
        if spec.incremental:
            return has_grown(manifest, reader, spec.input.limit)
        check_finished_input(manifest, reader, spec.input.limit)
        return False

    wanted = Reopening(spec.retry, spec.incremental, look)
    take_up = reopen if layout.shard is None else reopen_shard
    done = take_up(layout, fingerprint, columns, wanted, run_id)
    if spec.retry is not None and done.begun:
        all_shards = "" if layout.shard is None else ", in all shards"
        say(f"--retry {spec.retry}: {done.rows:,} rows are computed again{all_shards}")
    return done.fingerprint
