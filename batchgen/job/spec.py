"""What one job is: every decision of the command line, frozen. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from batchgen.engine.config import CPU_ROUNDINGS
from batchgen.errors import UsageError
from batchgen.job.form import Form
from batchgen.job.shard import Shard
from batchgen.job.stores.places import Place, place_of

__all__ = ["OVERLONG", "InputSpec", "JobSpec", "SamplingDefaults"]

OVERLONG = ("error", "truncate-left", "truncate-right", "skip")
"""`--overlong`: what may become of a prompt that does not fit."""
SamplingDefaults = dict[str, Any]
"""Parameter name -> value as flags gave it (only those given); rows override, the model's
generation_config and the built-in defaults fill what is missing."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Where rows come from and how their columns are read."""

    inputs: tuple[str, ...]
    prompt_column: str = "prompt"
    messages_column: str = "messages"
    id_column: str | None = None
    """None: `id`, else `custom_id`."""
    keep_columns: str = "all"
    """`all`, `none`, or `a,b:int64` (a type for JSONL columns)."""
    limit: int | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """What chat templates read besides messages; a row's own of the same name win."""
    template: str | None = None
    """`--template`: a jinja file, or its text, that makes the prompt of a row's columns."""
    overlong: str = "error"
    """What becomes of a prompt that does not fit (`OVERLONG`)."""
    as_chat: bool = False
    system: str | None = None
    served_model_names: tuple[str, ...] = ()
    """Names that an OpenAI row's body.model may have."""
    ignore_model: bool = False
    split: str = "train"
    """Of a `datasets` source."""
    adapters: tuple[str, ...] = ()
    """`NAME=DIR`, a folder or a hub id each: LoRA adapters that rows may name."""

    def __post_init__(self) -> None:
        given: object = self.inputs
        if isinstance(given, str):  # whom no type checker told
            object.__setattr__(self, "inputs", (given,))


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One `batchgen run`."""

    input: InputSpec
    out: Place
    format: str | None = None
    """`parquet` or `jsonl`; None: by the ending of `out`."""
    rows_per_file: int | None = None
    """The output is a folder of Parquet files, each of so many input rows."""
    model: str | None = None
    revision: str | None = None
    device: str = "auto"
    devices: str | None = None
    """`0,1`, `cpu:0,cpu:1`, `all`: an engine process a device, rows given out from one queue."""
    tensor_parallel: int = 1
    """Devices that one model is split over, from `device` on."""
    dtype: str = "auto"
    engine: str = "auto"
    """`echo`: answers at once with the prompt's own tokens; for testing jobs."""
    sampling: SamplingDefaults = field(default_factory=dict)
    chat_template: str | None = None
    template_time: datetime | None = None
    """What `strftime_now` tells the template; None: when the job began."""
    reasoning_parser: str = "auto"
    """`auto`: the chat template's; `none`; or a parser's name."""
    tool_call_parser: str = "auto"
    """The same of tool calls."""
    save_token_ids: bool = False
    save_prompt: bool = True
    checkpoint_dir: Place | None = None
    checkpoint_every: int = 1000
    checkpoint_seconds: float = 30.0
    overwrite: bool = False
    retry: str | None = None
    """`failed`, `truncated`: of finished rows, compute these again."""
    incremental: bool = False
    """The input may have grown since the output was finished: add the new rows."""
    lock: str = "fail"
    shard: Shard | None = None
    """Only these rows; the output is then `merge`'s to write."""
    join: bool = False
    """Others work on the same output: take rows that nobody has, until it is whole."""
    join_pieces: int = 64
    """Into how many pieces the first one cuts the job."""
    grace: float = 20.0
    time_limit: str | None = None
    """`10m`, `2h`, `HH:MM:SS`: be gone by then, with everything saved."""
    on_signal: str = "exit"
    row_timeout: float | None = None
    """Seconds in the engine after which a row becomes an error row."""
    max_failures: str = "0"
    summary: Path | None = None
    metrics_file: Path | None = None
    """Progress for Prometheus' node_exporter, replaced every five seconds."""
    quiet: bool = False
    progress: str = "auto"
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9
    block_size: int | None = None
    enable_prefix_caching: bool = True
    fold: bool = True
    """Rows that must have equal completions are computed once."""
    deterministic: bool = False
    """A row's logits are bit for bit a function of its own tokens, in the model's dtype."""
    attention_backend: str = "auto"
    enforce_eager: bool = False
    kv_cache_dtype: str = "auto"
    """`fp8`: keys and values are rounded to float8, opt-in."""
    quantization: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        given: object = self.out
        if isinstance(given, str):  # whom no type checker told
            object.__setattr__(self, "out", place_of(given))
        Form.of(self.out, self.format, self.rows_per_file)  # raises where they contradict
        self._check_tensor_parallel()
        if self.devices is not None and self.device != "auto":
            raise UsageError("--device and --devices are both given", "leave one of them out")
        if self.deterministic and self.quantization not in (None, "none"):
            raise UsageError(
                f"--quantization {self.quantization} rounds the inputs of layers, so "
                "--deterministic cannot hold",
                "leave one of the two out",
            )
        self._check_quantization()

    def _check_quantization(self) -> None:
        """Raises UsageError for a device that is named and does not serve it."""
        named = f"{self.device},{self.devices or ''}"
        rounded = [(name, "cuda", "the CPU") for name in CPU_ROUNDINGS]
        for quantization, other, home in (("fp8", "cpu", "CUDA"), *rounded):
            if self.quantization == quantization and other in named:
                raise UsageError(
                    f"--quantization {quantization} is for {home}, and the device is {other}",
                    "leave --quantization out, or name another device",
                )

    def _check_tensor_parallel(self) -> None:
        """Raises UsageError for what does not go with a model on several devices."""
        others = {
            "--engine echo, which has no model": self.engine == "echo",
            "--adapter: merge it into the model's folder (peft)": self.input.adapters,
            f"--quantization {self.quantization}": self.quantization not in (None, "none"),
        }
        clash = next((what for what, given in others.items() if given), None)
        if self.tensor_parallel > 1 and clash is not None:
            text = f"--tensor-parallel {self.tensor_parallel} does not go with {clash}"
            raise UsageError(text, "leave one of the two out")

    @property
    def form(self) -> Form:
        """What the output is on disk. Raises UsageError where name and flags contradict."""
        return Form.of(self.out, self.format, self.rows_per_file)
