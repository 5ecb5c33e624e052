"""`batchgen bench`: the engine alone, on a seeded workload, beside transformers' static batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from batchgen.cli.flags.engine import engine_options
from batchgen.cli.flags.flag import Decorated, flag, flag_group, params_of
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS, GroupedCommand
from batchgen.cli.flags.input import INPUT, input_options
from batchgen.cli.flags.model import model_options
from batchgen.cli.flags.sampling import SAMPLING, sampling_options
from batchgen.errors import UsageError
from batchgen.startup.importing import importing

if TYPE_CHECKING:
    from batchgen.job.model.files import ModelFiles

__all__ = ["bench"]

_STATIC_ROWS = {"mixed": {"rows": 40}}
"""Fewer than else: the comparison is over in two minutes on a CPU."""

_OF_ROWS = (INPUT, SAMPLING)
_bench_options = flag_group(
    "Bench",
    flag(
        "--workload", "workloads", multiple=True, core=True,
        type=click.Choice(
            ["nano", "sharegpt", "prefix", "label", "documents", "long", "classify", "samples",
             "seed6", "mixed"]
        ),
        help="Seeded lengths; repeats. nano where neither this nor --in is given.",
    ),
    flag("--rows", type=click.IntRange(min=1), metavar="N", core=True,
         show_default="the workload's own", help="Rows of each workload."),
    flag("--repeats", type=click.IntRange(min=1), metavar="N", core=True,
         show_default="3, with --static 1",
         help="Runs of each workload; the best is shown, with the spread."),
    flag("--sampling", multiple=True, core=True, metavar="VARIANT",
         show_default="own: greedy, or as the rows of --in say",
         type=click.Choice(
             ["own", "greedy", "temperature", "filters", "penalties", "logprobs", "one_in_16",
              "mixed"]
         ),
         help="How rows are sampled; each workload runs with each variant. Repeats."),
    flag("--static-batch", type=click.IntRange(min=0), default=8, metavar="N", core=True,
         help="Compare with transformers' generate in padded batches of N; 0: don't."),
    flag("--static", is_flag=True, core=True,
         help="Continuous beside static batching, by default of seed6 and mixed, with a picture."),
    flag("--slots", type=click.IntRange(min=1), metavar="N", core=True,
         show_default="2 of six rows, 8 of more", help="With --static: rows at once."),
    flag("--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", core=True,
         help="With --static: the picture as an HTML page."),
    flag("--load-format", type=click.Choice(["auto", "dummy"]), default="auto", core=True,
         help="dummy: random weights; the model's folder needs only config.json."),
    flag("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), core=True,
         metavar="FILE", help="Write everything measured here too."),
    flag("--save-workloads", type=click.Path(file_okay=False, path_type=Path), core=True,
         metavar="DIR", help="Write each workload's token ids and lengths there, for a peer."),
    flag("--peer", type=click.Path(dir_okay=False, path_type=Path), core=True, metavar="FILE",
         help="Show ratios to a peer's results: JSON lines with workload, output_tokens_per_s."),
)  # fmt: skip


def _row_options(command: Decorated) -> Decorated:
    """Those of `run` that say what a row's prompt is and how it is sampled; read with --in."""
    command = input_options(sampling_options(command))
    params = params_of(command)
    params[:] = [param for param in params if param.name != "adapters"]
    for param in params:
        if param.section in _OF_ROWS:
            param.core, param.required = param.name == "inputs", False
        if param.name == "inputs":
            param.help = "Measure these rows as `run` asks them, up to max_tokens; repeats."
    return command


@click.command(cls=GroupedCommand, context_settings=CONTEXT_SETTINGS)
@_bench_options
@_row_options
@model_options
@engine_options
@click.pass_context
def bench(ctx: click.Context, /, **flags: Any) -> None:
    """Measure the engine: token ids in, token ids out, lengths fixed, EOS ignored.

    \b
    batchgen bench --workload nano --model Qwen/Qwen3-0.6B --device cuda
    batchgen bench --in prompts.jsonl --model ./my-model --static-batch 0
    batchgen bench --static --to static.html
    """
    from batchgen.cli.process.logs import hush_libraries
    from batchgen.devices import check_device
    from batchgen.engine.processes.preparing import prepare_engine
    from batchgen.job.model.files import resolve_model

    _check_static(flags)
    _check_rows(ctx, flags)
    hush_libraries()
    check_device(flags["device"])
    files = resolve_model(flags["model"], flags["revision"])
    files.check_supported()
    files.check_loadable(whole=False)
    config = _engine_config(flags, files.path, files.eos_token_ids)
    real = _real_rows(flags, files, own_process=ctx.obj is True)
    if ctx.obj is True:
        prepare_engine(config, files.facts)
    with importing:
        from batchgen.report.bench import format_table
        from batchgen.report.bench_session import COLUMNS, PEER_COLUMNS, BenchSession
        from batchgen.report.peer_results import PeerResults
        from batchgen.report.workloads import DEFAULT_VOCAB

    peer = PeerResults.read(flags["peer"]) if flags["peer"] else None
    workloads = partial(_workloads, flags, real)
    if flags["static"]:
        from batchgen.cli.screen.batching import show_batching

        vocab = int(files.config.get("vocab_size", DEFAULT_VOCAB))
        report = show_batching(config, workloads(vocab), flags)
        return _write(report, flags["json_file"])
    session = BenchSession(
        config,
        flags["repeats"] or 3,
        flags["static_batch"],
        sampling=flags["sampling"] or ("own",),
        say=_say,
    )
    session.run(workloads)
    if peer is not None:
        peer.compare(session.rows)
    click.echo(format_table(session.rows, COLUMNS + PEER_COLUMNS * bool(peer)), err=True)
    _write(session.report(), flags["json_file"])


def _check_static(flags: Mapping[str, Any]) -> None:
    """Raises UsageError for a flag that would be ignored."""
    without = ("sampling", "peer") if flags["static"] else ("slots", "to")
    for name in without:
        if flags[name]:
            told = "with --static nothing reads" if flags["static"] else "only --static reads"
            raise UsageError(f"{told} --{name}", "leave one of the two out")


def _check_rows(ctx: click.Context, flags: Mapping[str, Any]) -> None:
    """Raises UsageError for a flag that only the rows of --in would read."""
    if flags["inputs"]:
        return
    for param in ctx.command.params:
        named = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if named and getattr(param, "section", None) in _OF_ROWS:
            raise UsageError(
                f"without --in nothing reads {param.opts[0]}",
                "name the rows to measure, or leave it out",
            )


def _real_rows(flags: Mapping[str, Any], files: ModelFiles, *, own_process: bool) -> dict[str, Any]:
    """The workload of --in, by its name, read before anything is loaded."""
    if not flags["inputs"]:
        return {}
    from batchgen.cli.flags.ahead import spec_ahead
    from batchgen.cli.process.prepare_ahead import prepare_ahead
    from batchgen.report.real_rows import real_workload

    prepare_ahead(files, own_process=own_process)
    asked = {"limit": flags["rows"] or flags["limit"], "keep_columns": "none", "adapters": ()}
    no_run = {"out": None, "rows_per_file": None, "shard": None}
    return {"input": real_workload(spec_ahead({**flags, **asked, **no_run}), files, _say)}


def _say(line: str) -> None:
    click.echo(line, err=True)


def _workloads(
    flags: Mapping[str, Any], real: Mapping[str, Any], vocab_size: int
) -> dict[str, Any]:
    """What is asked for, by name; saved where that is asked for, too."""
    with importing:
        from batchgen.report.workloads import DEFAULT_VOCAB, WORKLOADS, save_workload

    usual = ("seed6", "mixed") if flags["static"] else ("nano",)
    names = flags["workloads"] or (() if real else usual)
    rows = {"rows": flags["rows"]} if flags["rows"] else {}
    fewer = _STATIC_ROWS if flags["static"] else {}
    vocab = min(vocab_size, DEFAULT_VOCAB)
    work: dict[str, Any] = {
        name: WORKLOADS[name](vocab=vocab, **(rows or fewer.get(name, {}))) for name in names
    }
    work |= real
    for name, items in work.items():
        if flags["save_workloads"]:
            save_workload(items, flags["save_workloads"] / f"{name}.json")
    return work


def _engine_config(flags: dict[str, Any], model: Path, eos_token_ids: tuple[int, ...]) -> Any:
    from batchgen.engine.config import EngineConfig

    names = {field.name for field in fields(EngineConfig)} - {"model", "eos_token_ids", "seed"}
    chosen = {name: flags[name] for name in names if name in flags}
    return EngineConfig(model=model, eos_token_ids=eos_token_ids, **chosen)


def _write(report: dict[str, Any], json_file: Path | None) -> None:
    import json

    text = json.dumps(report)
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")
    click.echo(text)
