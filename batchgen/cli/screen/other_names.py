"""What newcomers write for our flags and variables, from habit or by a slip."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

import click

__all__ = ["OTHER_NAMES", "tell_near_variables"]

OTHER_NAMES = {
    "--batch-size": "--max-num-seqs",
    "--concurrency": "--max-num-seqs",
    "--input": "--in",
    "--file": "--in",
    "--dataset": "--in",
    "--output": "--out",
    "--output-dir": "--out",
    "--max-new-tokens": "--max-tokens",
    "--max-length": "--max-tokens",
    "--max-output-tokens": "--max-tokens",
    "--temp": "--temperature",
    "--model-name": "--model",
    "--model-path": "--model",
    "--tokenizer": "--model",
    "--system-prompt": "--system",
    "--chat": "--as-chat",
    "--column": "--prompt-column",
    "--text-column": "--prompt-column",
    "--num-samples": "--n",
    "--max-rows": "--limit",
    "--gpu": "--device",
    "--gpus": "--devices",
    "--tp": "--tensor-parallel",
    "--tensor-parallel-size": "--tensor-parallel",
    "--force": "--overwrite",
    "--resume": "the same command without it (a run goes on by itself)",
    "--continue": "the same command without it (a run goes on by itself)",
    "--timeout": "--time-limit",
    "--lora": "--adapter",
    "--json-schema": "a row's response_format (`batchgen docs recipes`)",
    "--response-format": "a row's response_format (`batchgen docs recipes`)",
    "--guided-json": "a row's response_format (`batchgen docs recipes`)",
}
"""Other programs' name of a flag, or a likely slip -> ours, or where it stands. `_` is read as
`-`."""
_PREFIX = "BATCHGEN_"
_NEAR = 0.85


def tell_near_variables(command: click.Command, environ: Mapping[str, str]) -> None:
    """Say of each variable whose name is nearly that of one of the command's flags that it changes
    nothing."""
    known = [name for name in (getattr(one, "envvar", None) for one in command.params) if name]
    plain = {name.replace("_", ""): name for name in known}
    for name in environ:
        if not name.startswith(_PREFIX) or name in known:
            continue
        near = get_close_matches(name.replace("_", ""), plain, n=1, cutoff=_NEAR)
        if near:
            text = f"{name} is no setting and changes nothing; did you mean {plain[near[0]]}?"
            click.echo(f"batchgen: {text}", err=True)
