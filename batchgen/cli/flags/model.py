"""The flags of `run` that name a model, and where and in which numbers it runs."""

from __future__ import annotations

from datetime import datetime

import click

from batchgen.cli.flags.flag import flag, flag_group
from batchgen.cli.flags.other_values import DTYPE, QUANTIZATION

__all__ = ["model_options"]


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """ISO 8601; without an offset it is read, and told, as it stands."""
    if not value:
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        text = f"{value!r} is no time in ISO 8601, such as 2026-01-31T09:30:00"
        raise click.BadParameter(text, ctx, param) from None


model_options = flag_group(
    "Model",
    flag(
        "--model", "-m", metavar="MODEL", core=True, show_default="built-in",
        help="Folder, hub id or .gguf file.",
    ),
    flag("--revision", metavar="REV", help="Branch, tag or commit of a hub model."),
    flag("--device", default="auto", metavar="auto|cpu|cuda|cuda:N", core=True,
         help="Where to run."),
    flag("--devices", metavar="0,1|all|cpu:0,cpu:1",
         help="A process a GPU (or CPU core), one output."),
    flag("--tensor-parallel", type=click.IntRange(min=1), default=1, metavar="N",
         help="GPUs that one model is split over, from --device on."),
    flag(
        "--dtype", core=True, default="auto", type=DTYPE,
        help="Of weights and cache; auto is the checkpoint's own.",
    ),
    flag("--chat-template", metavar="FILE|NAME",
         help="Jinja template in place of the model's, or the name of one of its several."),
    flag("--template-time", metavar="ISO", callback=_moment, show_default="when the job began",
         help="The time that the template's strftime_now tells, in all rows."),
    flag("--quantization", type=QUANTIZATION,
         help="Round weights: int8, q4 on the CPU, fp8 on CUDA; gguf: as that file packs them."),
    flag("--trust-remote-code", is_flag=True, help="Run Python code shipped with the model."),
    flag("--allow-pickle", is_flag=True, help="Load weights that are not safetensors."),
)  # fmt: skip
