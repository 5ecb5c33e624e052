"""The two calls that need no object: `generate` over rows, `run` over files."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from batchgen.api.keywords import spec_of_job
from batchgen.api.llm import LLM, EachRow
from batchgen.api.params import ParamsLike
from batchgen.api.stream import Stream
from batchgen.cluster.joined import run_joined
from batchgen.errors import StoppedError, UsageError
from batchgen.job.run import runner
from batchgen.job.run.published import run_published
from batchgen.job.run.runner import Prepare, Report
from batchgen.job.run.summary import Summary
from batchgen.job.spec import JobSpec
from batchgen.job.stopping.signals import Stop

__all__ = ["generate", "run"]


def generate(
    rows: Iterable[Any],
    sampling_params: ParamsLike | EachRow | None = None,
    *,
    model: str | Path | None = None,
    in_order: bool = True,
    max_in_flight: int | None = None,
    **options: Any,
) -> Stream:
    """`LLM(model, **options).generate(rows, ...)`, which frees the model when it ends.

    >>> from batchgen import generate
    >>> [result.completion for result in generate(["one", "two"], engine="echo")]
    ['one', 'two']
    """
    llm = LLM(model, **options)
    try:
        stream = llm.generate(rows, sampling_params, in_order=in_order, max_in_flight=max_in_flight)
    except BaseException:
        llm.close()
        raise
    stream.on_end = llm.close
    return stream


def run(
    spec: JobSpec | None = None,
    *,
    stop: Stop | str | Sequence[str] | None = None,
    report: Report | None = None,
    prepare: Prepare | None = None,
    **options: Any,
) -> Summary:
    """One file job, as `batchgen run` with these flags as keywords; its summary.

    It resumes, locks and writes as the command does. Failed rows beyond `max_failures` give a
    summary with `exit_code` 3, and Ctrl-C ends it with everything saved before KeyboardInterrupt
    is raised; whatever else has an exit code of its own is raised as a BatchgenError. In an event
    loop: `await asyncio.to_thread(run, ...)`. Instead of keywords: a `JobSpec`. `stop`: the flag's
    texts, or a `Stop` by which another thread ends the job.

    >>> from batchgen import run
    >>> run(inputs="prompts.jsonl", out="out.parquet", engine="echo", quiet=True).rows
    2
    """
    if stop is not None and not isinstance(stop, Stop):
        options["stop"], stop = stop, None
    if spec is None:
        spec = spec_of_job(options)
    elif options:
        raise UsageError(
            f"a JobSpec and options are both given: {', '.join(options)}", "one of them"
        )
    job = run_joined if spec.join else runner.run
    if stop is not None:
        return run_published(job, spec, stop=stop, report=report, prepare=prepare)
    stop = Stop()
    try:
        with _polite_interrupt(stop):
            summary = run_published(job, spec, stop=stop, report=report, prepare=prepare)
    except StoppedError:
        if stop.signum is None:
            raise
        raise KeyboardInterrupt from None
    if stop.signum is not None:
        raise KeyboardInterrupt
    return summary


@contextmanager
def _polite_interrupt(stop: Stop) -> Iterator[None]:
    """Ctrl-C asks for a stop; a second one raises at once, as ever. Only in the main thread, and
    where nobody else handles it."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is not signal.default_int_handler:
        yield
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.handle(signum, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
