"""The flags of `run`, in groups. A flag's Python name is the field it fills in `job.spec`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from batchgen.cli.flags import PLACE, Decorated, flag, flag_group
from batchgen.cli.output_options import reasoning_parser, report_options, tool_call_parser
from batchgen.cli.screen.other_values import DTYPE, KV_CACHE_DTYPE, QUANTIZATION
from batchgen.errors import RowError
from batchgen.job.spec import OVERLONG

__all__ = [
    "INPUT",
    "SAMPLING",
    "engine_options",
    "input_options",
    "job_options",
    "model_options",
    "sampling_options",
]

_FROM_MODEL = "the model's own, else {}"


def _template_kwargs(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> dict[str, Any]:
    """A JSON object, fit to be a row's chat_template_kwargs."""
    if not value:
        return {}
    from batchgen.job.fields.settings import read_template_kwargs

    try:
        given = json.loads(value)
        if not isinstance(given, dict):
            raise ValueError(f"it is {type(given).__name__}, no object")
        return read_template_kwargs({"chat_template_kwargs": given})
    except (ValueError, RecursionError) as error:
        text = f'write a JSON object, such as {{"enable_thinking": false}}: {error}'
        raise click.BadParameter(text, ctx, param) from None
    except RowError as error:
        raise click.BadParameter(error.message, ctx, param) from None


def _text_or_file(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """`@FILE` is the file's text, `@@...` a text that begins with @."""
    if not value or not value.startswith("@"):
        return value
    if value.startswith("@@"):
        return value[1:]
    try:
        return Path(value[1:]).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        text = f"{value[1:]} cannot be read: {error} (a text that begins with @ is written @@)"
        raise click.BadParameter(text, ctx, param) from None


INPUT = "Input"
SAMPLING = "Sampling (defaults for rows that do not say)"
"""Headings of the flags that say what rows are, and how they are sampled."""
input_options = flag_group(
    INPUT,
    flag(
        "--in", "-i", "--input-file", "inputs", multiple=True, required=True, core=True,
        metavar="PATH",
        help="JSONL or Parquet file, glob, folder or dataset id; repeats.",
    ),
    flag("--limit", type=click.IntRange(min=0), metavar="N", core=True, help="Only N rows."),
    flag("--prompt-column", default="prompt", metavar="NAME", help="Column of raw prompts."),
    flag("--messages-column", default="messages", metavar="NAME", help="Column of chat messages."),
    flag("--id-column", metavar="NAME", show_default="id, else custom_id",
         help="Column of row ids; `a,b`: of both together."),
    flag("--template", metavar="FILE.j2", core=True,
         help="Jinja template that makes each row's prompt of its columns."),
    flag("--as-chat", is_flag=True, core=True, help="Make each plain prompt a user message."),
    flag("--system", metavar="TEXT|@FILE", callback=_text_or_file, may_be_empty=True,
         help="System message put before chats that have none of their own."),
    flag("--chat-template-kwargs", metavar="JSON", callback=_template_kwargs, show_default="{}",
         help="What chat templates read besides messages; a row's own win."),
    flag("--overlong", type=click.Choice(OVERLONG), default="error",
         help="Prompts that do not fit: an error, cut at one end, or skipped."),
    flag(
        "--served-model-name", "served_model_names", multiple=True, metavar="NAME",
        help="Name that an OpenAI row's body.model may have; repeats.",
    ),
    flag("--ignore-model", is_flag=True, help="Accept any body.model in OpenAI rows."),
    flag("--adapter", "adapters", multiple=True, metavar="[NAME=]DIR", core=True,
         help="LoRA adapter (a folder of peft's, a hub id); of several each row names its own."),
    flag("--split", default="train", metavar="NAME", help="Split of a dataset source."),
)  # fmt: skip


_output_options = flag_group(
    "Output",
    flag(
        "--out", "-o", "--output-file", "out", required=True, core=True,
        type=PLACE,
        metavar="FILE",
        help="Parquet or .jsonl[.gz|.zst], or s3://, gs://, az://.",
    ),
    flag("--format", type=click.Choice(["parquet", "jsonl"]), help="Of the output.",
         show_default="by its ending, else parquet"),
    flag("--rows-per-file", type=click.IntRange(min=1), metavar="N",
         help="Make OUT a folder of Parquet files of N input rows each."),
    flag(
        "--keep-columns", default="all", metavar="all|none|a,b", core=True,
        help="Input columns to carry over (`a:int64`: typed; `new=a`: renamed).",
    ),
    flag("--save-prompt/--no-save-prompt", default=True, help="Keep prompts in the output."),
    flag("--save-token-ids", is_flag=True, help="Add the column token_ids."),
    reasoning_parser,
    tool_call_parser,
)  # fmt: skip


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


def _token_ids(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """`1,2` -> [1, 2]."""
    if not value:
        return None
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter("write whole numbers, such as 2,32000", ctx, param) from None


def _labels(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """`a,b` and `["a, b", "c"]`, each of which may repeat."""
    if not value:
        return ()
    from batchgen.job.decisions.settings import labels_in, read_labels

    try:
        given = [label for text in value for label in labels_in("--choices", text)]
        return read_labels("--choices", given) if given else ()
    except RowError as error:
        raise click.BadParameter(error.message, ctx, param) from None


sampling_options = flag_group(
    SAMPLING,
    flag(
        "--max-tokens", type=click.IntRange(min=1), metavar="N", core=True,
        show_default=_FROM_MODEL.format(256), help="Most tokens to generate for a row.",
    ),
    flag("--min-tokens", type=click.IntRange(min=0), metavar="N", show_default="0",
         help="Fewest tokens before the row may stop."),
    flag(
        "--temperature", type=click.FloatRange(0, 100), metavar="T", core=True,
        show_default=_FROM_MODEL.format("0: greedy"), help="0 takes the likeliest token.",
    ),
    flag("--top-p", type=click.FloatRange(0, 1, min_open=True), metavar="P", core=True,
         help="Sample from the likeliest tokens that hold this much."),
    flag("--top-k", type=click.IntRange(min=-1), metavar="K", help="Sample from the K likeliest."),
    flag("--min-p", type=click.FloatRange(0, 1), metavar="P",
         help="Drop tokens below this share of the likeliest one."),
    flag("--repetition-penalty", type=click.FloatRange(0, min_open=True), metavar="X",
         help="Above 1 discourages tokens already seen."),
    flag("--presence-penalty", type=click.FloatRange(-2, 2), metavar="X",
         help="Subtracted once from tokens already generated."),
    flag("--frequency-penalty", type=click.FloatRange(-2, 2), metavar="X",
         help="Subtracted for each time a token was generated."),
    flag("--stop", multiple=True, metavar="TEXT", core=True, help="Stop at this text; repeats."),
    flag("--stop-token-ids", metavar="1,2", callback=_token_ids, help="Stop at these token ids."),
    flag("--ignore-eos", is_flag=True, default=None, help="Go on past the end token."),
    flag("--n", type=click.IntRange(1, 1024), metavar="N", show_default="1",
         help="Completions for each row."),
    flag("--seed", type=click.IntRange(-(2**63), 2**63 - 1), metavar="N", core=True,
         show_default="0", help="Key of all random draws, with the row's id."),
    flag("--reasoning-budget", type=click.IntRange(min=-1), metavar="N", show_default="none",
         help="Most tokens of thinking; then its end is forced."),
    flag("--keep-special-tokens", "skip_special_tokens", is_flag=True, flag_value=False,
         default=None, help="Leave special tokens in the text."),
    flag("--include-stop-str-in-output", is_flag=True, default=None,
         help="Leave what ended a row in its text."),
    flag("--logprobs", type=click.IntRange(min=0), metavar="N",
         help="Add logprobs, of the chosen tokens, and of the N likeliest."),
    flag("--top-logprobs", type=click.IntRange(0, 20), metavar="N",
         help="The same, under OpenAI's name."),
    flag("--choices", multiple=True, metavar="A,B|JSON", callback=_labels,
         help="Generate nothing: choose the likeliest of these labels; repeats."),
    flag("--score", is_flag=True,
         help="Generate nothing: add the log-probabilities of each text's own tokens."),
)  # fmt: skip

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

_resume_options = flag_group(
    "Resume",
    flag("--checkpoint-dir", type=PLACE, metavar="DIR", show_default="OUT.ckpt",
         help="Where work in progress lives."),
    flag("--checkpoint-every", type=click.IntRange(min=1), default=1000, metavar="ROWS",
         help="Most finished rows a crash can cost."),
    flag("--checkpoint-seconds", type=click.FloatRange(0, min_open=True), default=30.0,
         metavar="S", help="Most seconds between checkpoints."),
    flag("--overwrite", is_flag=True, core=True,
         help="Start over; an old output stays until the end."),
    flag("--shard", metavar="I/N", core=True, show_default=False,
         help="Only rows I modulo N; then `merge`."),
    flag("--join", is_flag=True, core=True,
         help="Share the job: others may join; the last merges."),
    flag("--join-pieces", type=click.IntRange(min=1), default=64, metavar="N",
         help="Pieces that processes claim; the first one's count holds."),
    flag("--retry", type=click.Choice(["failed", "truncated"]), core=True,
         help="Compute failed (or cut) rows again, keep others."),
    flag("--incremental", is_flag=True, core=True,
         help="Add the input's new rows to a finished output."),
    flag("--lock", type=click.Choice(["wait", "fail", "skip"]), default="fail",
         help="When another run holds the output."),
    flag("--grace", type=click.FloatRange(min=0), default=20.0, metavar="S",
         help="Seconds to save work in after the first signal."),
    flag("--time-limit", metavar="TIME", core=True, show_default="Slurm's end",
         help="Save and exit 75 by then: 60s, 10m, 2h, HH:MM:SS, D-HH:MM:SS."),
    flag("--on-signal", type=click.Choice(["exit", "wait"]), default="exit",
         help="After saving: exit with 75, or free the device and sleep until killed."),
)  # fmt: skip


def job_options(command: Decorated) -> Decorated:
    """All the options of a job, in the order that the help shows them."""
    groups = (input_options, _output_options, model_options, sampling_options, engine_options,
              _resume_options, report_options)  # fmt: skip
    for group in reversed(groups):
        command = group(command)
    return command
