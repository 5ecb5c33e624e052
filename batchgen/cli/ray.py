"""`batchgen ray run`: a job's shards on a Ray cluster that is there already, then the merge."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.flags.flag import flag, flag_group
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS, GroupedCommand
from batchgen.cli.flags.job import job_options, job_spec
from batchgen.cli.process.logs import set_up_logs
from batchgen.cli.run import summary_printer
from batchgen.errors import StoppedError, UsageError
from batchgen.job.spec import JobSpec

if TYPE_CHECKING:
    from batchgen.cluster.ray_shards import ShardResult

__all__ = ["ray"]

ray_options = flag_group(
    "Ray",
    flag("--shards", type=click.IntRange(min=1), required=True, core=True, metavar="N",
         help="Split the job into so many tasks: a few for each GPU."),
    flag("--ray-address", default="auto", core=True, metavar="ADDRESS",
         help="The cluster; auto: RAY_ADDRESS, or the one on this host."),
    flag("--num-gpus", type=click.FloatRange(min=0), core=True, metavar="N",
         help="Of a task.", show_default="a model's; 0 with --device cpu and --engine echo"),
    flag("--num-cpus", type=click.FloatRange(min=0), default=1.0, metavar="N", help="Of a task."),
    flag("--max-retries", type=click.IntRange(min=-1), default=20, metavar="N",
         help="Restarts of a task whose worker died; -1: for ever."),
)  # fmt: skip


@click.group(context_settings=CONTEXT_SETTINGS)
def ray() -> None:
    """Run a job on a Ray cluster that is there already (the extra [ray]).

    \b
    batchgen ray run --shards 32 --in prompts.jsonl --out out.parquet
    """


@ray.command(cls=GroupedCommand, context_settings=CONTEXT_SETTINGS)
@ray_options
@job_options
@click.pass_context
def run(ctx: click.Context, /, **flags: Any) -> None:
    """Run the shards of a job as tasks of a Ray cluster, then merge them; resumes by itself.

    All nodes must see input, output and model under the same names.

    \b
    batchgen ray run --shards 32 --in 'data/*.parquet' --out out.parquet --model Qwen/Qwen3-0.6B
    """
    from batchgen.cluster.ray_shards import RayOptions, run_shards
    from batchgen.job.output.name import check_name, check_served

    as_json = flags["log_format"] == "json"
    set_up_logs(quiet=flags["quiet"], verbose=flags["verbose"], as_json=as_json)
    if flags["shard"] is not None:
        raise UsageError("--shard is one shard's, and ray runs all of them", "give --shards N")
    spec = job_spec(flags | {"shard": "none"})
    check_name(spec.out)
    check_served(spec.out)
    if _is_complete(spec):
        ctx.exit(_finished(spec, as_json=flags["as_json"]))
    gpus = flags["num_gpus"]
    if gpus is None:
        gpus = gpus_of(spec)
    asked = RayOptions(
        flags["shards"], flags["ray_address"], gpus, flags["num_cpus"], flags["max_retries"]
    )
    results = run_shards(spec, asked, lambda text: _say(spec, text))
    ctx.exit(_failure(results) or _merged(spec))


def gpus_of(spec: JobSpec) -> float:
    """What a task needs where `--num-gpus` does not say: those that its model is split over."""
    on_cpu = spec.engine == "echo" or spec.device == "cpu"
    return 0.0 if on_cpu else float(spec.tensor_parallel)


def _say(spec: JobSpec, text: str) -> None:
    if not spec.quiet:
        click.echo(f"batchgen: {text}", err=True)


def _is_complete(spec: JobSpec) -> bool:
    from batchgen.job.storage.layout import Layout, folder_of
    from batchgen.job.storage.manifest import is_complete

    again = spec.overwrite or spec.retry is not None or spec.incremental
    layout = Layout(folder_of(spec.out, spec.checkpoint_dir), spec.out)
    return not again and is_complete(layout.manifest)


def _finished(spec: JobSpec, *, as_json: bool) -> int:
    """Look here, without a cluster, that the output is this job's."""
    from batchgen.job.run.runner import run as run_job

    report = None if spec.quiet else summary_printer(as_json=as_json)
    return run_job(replace(spec, shard=None), report=report).exit_code


def _failure(results: list[ShardResult]) -> int:
    """The exit code of shards that are not complete, told one by one; 0: all are."""
    failed = [result for result in results if result.message]
    for result in failed:
        click.echo(f"batchgen: shard {result.shard}: {result.message}", err=True)
        if result.hint:
            click.echo(f"  next: {result.hint}", err=True)
    worst = [r.exit_code for r in failed if r.exit_code != StoppedError.exit_code]
    return worst[0] if worst else StoppedError.exit_code if failed else 0


def _merged(spec: JobSpec) -> int:
    from batchgen.job.run.summary import FailureLimit
    from batchgen.job.storage.layout import folder_of
    from batchgen.job.verbs.merge_job import merge_output

    limit = FailureLimit.parse(spec.max_failures)
    report = merge_output(spec.out, folder_of(spec.out, spec.checkpoint_dir), lock="wait")
    code = limit.exit_code(report.errors, report.rows)
    text = json.dumps({"out": str(spec.out), "exit_code": code} | asdict(report))
    if spec.summary is not None:
        spec.summary.write_text(text + "\n")
    if not spec.quiet:
        click.echo(text)
    return code
