"""`batchgen plan`: what a job is made of, whether it fits a GPU, and what it would cost there."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.flags.ahead import ahead_command, spec_ahead
from batchgen.cli.flags.flag import flag, flag_group
from batchgen.cli.process.prepare_ahead import prepare_ahead
from batchgen.counts import counted
from batchgen.errors import UsageError

if TYPE_CHECKING:
    from batchgen.job.ahead.plan import Plan

__all__ = ["plan"]

_GPUS = ["b200", "h200", "h100", "a100", "a100-40gb", "l40s", "a10", "l4", "t4"]
_what = flag_group(
    "Plan",
    flag("--gpu", type=click.Choice(_GPUS, case_sensitive=False), default="h100", core=True,
         help="The GPU to plan for."),
    flag("--all", "whole", is_flag=True, core=True,
         help="Read every row, not the first 10,000 alone."),
    flag("--mean-output-tokens", "mean_output", type=click.IntRange(min=1), metavar="N", core=True,
         show_default="each row's max_tokens", help="Tokens that a row is expected to generate."),
)  # fmt: skip


_SMALLER = {
    "--quantization fp8": "auto",
    "--quantization fp8 --kv-cache-dtype fp8": "fp8",
}
"""Flags that make a dense model smaller, and the cache's dtype with them."""


@ahead_command(_what)
def plan(ctx: click.Context, /, **flags: Any) -> None:
    """Say what a run would cost: rows, tokens, fit, time and GPU-hours. No torch.

    \b
    batchgen plan --in prompts.jsonl --model Qwen/Qwen3-0.6B --gpu h100
    """
    from batchgen.job.ahead.model_size import shape_of
    from batchgen.job.ahead.opening import opened
    from batchgen.job.ahead.plan import plan_of
    from batchgen.job.model.files import ModelKind, model_of
    from batchgen.job.model.weights import quantization_of

    spec = spec_ahead(flags)
    files = model_of(spec)
    if files is None:
        raise UsageError("the echo engine computes nothing that could be planned", "name a --model")
    quantization = quantization_of(spec, files) if spec.device == "cpu" else spec.quantization
    steady = spec.deterministic
    shape = shape_of(files, spec.dtype, spec.kv_cache_dtype, quantization, steady=steady)
    prepare_ahead(files, own_process=ctx.obj is True)
    smaller = {
        words: partial(shape_of, files, spec.dtype, cached, "fp8")
        for words, cached in _SMALLER.items()
        if quantization is None and not steady and files.kind is ModelKind.FOLDER
    }
    whole, mean = flags["whole"], flags["mean_output"]
    with opened(spec, files) as job:
        found = plan_of(job, shape, flags["gpu"], whole=whole, mean_output=mean, smaller=smaller)
    click.echo(json.dumps(asdict(found)) if flags["as_json"] else _text(found))


def _text(plan: Plan) -> str:
    bad = ", ".join(f"{code} {count:,}" for code, count in plan.bad.items()) or "none"
    rows = "an unknown number of" if plan.rows is None else f"{plan.rows:,}"
    bins = "\n".join(f"  up to {top:>9,}: {n:,}" for top, n in plan.histogram.items())
    listed = "".join(f"\n  too long: {origin}" for origin in plan.overlong)
    lines = [
        f"{rows} rows, {plan.rows_read:,} read; bad: {bad}; {plan.skipped:,} skipped, "
        f"{plan.truncated:,} cut to fit{listed}",
        f"of these: {counted(plan.prompt_tokens, 'prompt token')}, "
        f"{plan.computed_prompt_tokens:,} to compute ({plan.shared_share:.0%} shared with an "
        f"earlier row, {counted(plan.folded, 'equal row')} computed once); at most "
        f"{plan.max_output_tokens:,} to generate",
        f"prompts by tokens:\n{bins}",
        f"{plan.gpu}: weights {plan.weight_bytes / 1e9:.1f} GB, room for {plan.cache_tokens:,} "
        f"tokens of cache, {plan.live_sequences:,} rows at once",
        _cost(plan),
    ]
    return "\n".join(lines)


def _cost(plan: Plan) -> str:
    if not plan.fits:
        reason = "it does not fit: the weights and the longest row need more memory"
        ways = ", or with ".join(plan.would_fit)
        return f"{reason}; it would with {ways}" if ways else reason
    if plan.seconds is None:
        return "no time: the number of rows is not known without reading them (--all)"
    return (
        f"about {plan.seconds:,.0f} s of the engine on one, {plan.gpu_hours:,.2f} GPU-hours if "
        f"every row generates all it may; shards: {plan.shards}"
    )
