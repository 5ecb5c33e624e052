"""`batchgen run`: flags in, a frozen JobSpec out, and the job half does the rest."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS, GroupedCommand
from batchgen.cli.flags.job import job_options, job_spec
from batchgen.cli.process.logs import set_up_logs
from batchgen.cli.process.streams import silence
from batchgen.errors import StoppedError
from batchgen.job.redaction import redacted
from batchgen.job.spec import JobSpec
from batchgen.job.stopping import signals
from batchgen.job.stopping.last_resort import LastResort
from batchgen.startup import timeline

if TYPE_CHECKING:
    from batchgen.job.input.reader import Reader
    from batchgen.job.model.files import ModelFiles
    from batchgen.job.run.summary import Summary

__all__ = ["run", "summary_printer"]


@click.command(cls=GroupedCommand, context_settings=CONTEXT_SETTINGS)
@job_options
@click.pass_context
def run(ctx: click.Context, /, **flags: Any) -> None:
    """Generate one completion for every row of the input; resumes by itself.

    \b
    batchgen run --in prompts.jsonl --out out.parquet
    batchgen run --in 'data/*.parquet' --out out.parquet --model Qwen/Qwen3-0.6B --device cuda
    """
    stop = signals.install()
    own_process: bool = ctx.obj is True
    last_resort = LastResort(stop, flags["grace"]) if own_process else None
    timeline.begin(own_process=own_process)
    as_json = flags["log_format"] == "json"
    set_up_logs(quiet=flags["quiet"], verbose=flags["verbose"], as_json=as_json)
    if as_json and flags["progress"] == "bar":
        flags["progress"] = "lines"
    spec = job_spec(flags)
    report = None if spec.quiet else summary_printer(as_json=flags["as_json"])
    try:
        with stop.at_once("it started"):
            run_job = _runner(spec)
        begun = _prepare if own_process else None
        code = run_job(spec, stop=stop, report=report, prepare=begun).exit_code
    except StoppedError:
        _wait_if_asked(spec, stop, last_resort)
        raise
    if code == StoppedError.exit_code:
        _wait_if_asked(spec, stop, last_resort)
    ctx.exit(code)


def _runner(spec: JobSpec) -> Callable[..., Summary]:
    if str(spec.out).startswith("hf:"):
        from batchgen.job.run.published import run_published

        return partial(run_published, _local_runner(spec))
    return _local_runner(spec)


def _local_runner(spec: JobSpec) -> Callable[..., Summary]:
    if spec.join:
        from batchgen.cluster.joined import run_joined

        return run_joined
    from batchgen.job.run.runner import run as run_alone

    return run_alone


def _prepare(spec: JobSpec, files: ModelFiles | None, reader: Reader) -> None:
    """As `prepare`, imported once rows are left to do."""
    from batchgen.cli.process.prepare import prepare

    prepare(spec, files, reader)


def _wait_if_asked(spec: JobSpec, stop: signals.Stop, last_resort: LastResort | None) -> None:
    """`--on-signal wait`: everything is saved and given up; hold still until killed."""
    if spec.on_signal != "wait" or stop.signum is None:
        return
    if last_resort is not None:
        last_resort.call_off()
    gc.collect()  # the engine's own cycles hold its memory
    if "torch" in sys.modules:
        from batchgen.engine.memory import release_memory

        release_memory()
    click.echo("batchgen: everything is saved; waiting to be killed (--on-signal wait)", err=True)
    signals.wait_to_be_killed()


def summary_printer(*, as_json: bool) -> Callable[[Summary], None]:
    """One line of JSON on stdout; where that is a terminal, a few lines for people on stderr."""
    return _print_json if as_json or not sys.stdout.isatty() else _print_lines


def _print_lines(summary: Summary) -> None:
    from batchgen.cli.screen.run_summary import summary_lines

    click.echo(redacted("\n".join(summary_lines(summary))), err=True)


def _print_json(summary: Summary) -> None:
    """A job that is done is done, whether or not it can be told there."""
    try:
        click.echo(summary.to_json())
    except OSError as error:
        silence(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            click.echo(f"batchgen: the summary could not be printed: {error.strerror}", err=True)
