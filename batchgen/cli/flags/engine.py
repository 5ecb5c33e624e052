"""The flags of `run` that size the engine."""

from __future__ import annotations

import click

from batchgen.cli.flags.flag import flag, flag_group
from batchgen.cli.flags.other_values import KV_CACHE_DTYPE

__all__ = ["engine_options"]

engine_options = flag_group(
    "Engine",
    flag(
        "--engine", type=click.Choice(["auto", "echo"]), default="auto",
        help="echo answers at once with the prompt's own tokens: for testing jobs.",
    ),
    flag("--max-num-seqs", type=click.IntRange(min=1), metavar="N", core=True,
         show_default="GPU 256 to 1024, CPU 64", help="Most rows at once."),
    flag("--max-num-batched-tokens", type=click.IntRange(min=1), metavar="N",
         show_default="by device and model", help="Most tokens computed in one step."),
    flag("--max-model-len", type=click.IntRange(min=2), metavar="N",
         show_default="the model's", help="Most tokens of prompt and output together."),
    flag("--gpu-memory-utilization", type=click.FloatRange(0, 1, min_open=True), default=0.9,
         metavar="SHARE", help="Share of the GPU's memory to use."),
    flag("--block-size", type=click.IntRange(min=1), metavar="N", show_default="by device",
         help="Tokens in a block of the KV cache."),
    flag("--kv-cache-dtype", type=KV_CACHE_DTYPE, default="auto",
         help="fp8: half the cache's bytes, keys and values rounded; on CUDA."),
    flag("--enable-prefix-caching/--no-enable-prefix-caching", default=True,
         help="Compute equal beginnings of prompts once."),
    flag("--fold/--no-fold", default=True, help="Compute equal rows once."),
    flag("--deterministic", is_flag=True, help="Bit for bit the same, whatever the batch."),
    flag("--enforce-eager", is_flag=True, help="On CUDA: no compiled layers, no graphs."),
    flag("--attention-backend", default="auto", metavar="NAME", help="Force one attention path."),
)  # fmt: skip
