"""What a job's stages are made of, by its spec and its model's files: with a ledger or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from batchgen.engine.config import Adapter, EngineConfig
from batchgen.engine.processes.devices import Device, parse_devices
from batchgen.engine.request import Engine
from batchgen.job.fields.params import merge
from batchgen.job.flow.results import Results, ResultsOptions
from batchgen.job.model.files import ModelFiles
from batchgen.job.model.weights import quantization_of
from batchgen.job.spec import JobSpec
from batchgen.job.templates.row_template import RowTemplate
from batchgen.job.text.overlong import OverlongPolicy
from batchgen.job.text.requests import Requests, answer_parsers
from batchgen.job.text.text_codec import TextCodec
from batchgen.job.text.tokenizer import load_codec
from batchgen.startup.importing import importing

if TYPE_CHECKING:
    from batchgen.engine.processes.fleet import Fleet

__all__ = [
    "ECHO_LEN",
    "begin_job_engine",
    "engine_config",
    "load_job_codec",
    "load_job_engine",
    "make_requests",
    "make_results",
]

_ECHO_SEQS = 256
ECHO_LEN = 1 << 20
"""Tokens that a row may have with the echo engine."""


def load_job_codec(spec: JobSpec, files: ModelFiles | None, now: datetime) -> TextCodec:
    """The tokenizer and the template, whose clock shows `now`."""
    return load_codec(files, spec.chat_template, trust_remote_code=spec.trust_remote_code, now=now)


def make_requests(
    spec: JobSpec,
    files: ModelFiles | None,
    codec: TextCodec,
    inflight_tokens: Callable[[int, int], Sequence[int]] | None = None,
) -> Requests:
    """What makes engine requests of rows. `inflight_tokens`: what an earlier run generated."""
    template = spec.input.template
    return Requests(
        codec,
        eos_token_ids=() if files is None else files.eos_token_ids,
        inflight_tokens=inflight_tokens,
        overlong=overlong_policy(spec, files),
        row_template=None if template is None else RowTemplate.read(template),
        parsers=answer_parsers(codec, spec.reasoning_parser, spec.tool_call_parser),
        default_params=merge({}, {}, {} if files is None else files.generation_defaults),
    )


def overlong_policy(spec: JobSpec, files: ModelFiles | None) -> OverlongPolicy:
    """The limit is the flag's or the model's, never what a device's memory holds: completions must
    not depend on it."""
    longest = None if files is None else files.max_position
    return OverlongPolicy(spec.input.overlong, spec.max_model_len or longest)


def make_results(
    spec: JobSpec, codec: Callable[[], TextCodec], attempt: Callable[[int], int], run_id: str
) -> Results:
    """What makes output rows of what the engine finished."""
    skips = spec.input.overlong == "skip"
    options = ResultsOptions(run_id, spec.save_prompt, spec.save_token_ids, skips)
    return Results(codec, attempt, options)


def begin_job_engine(spec: JobSpec, files: ModelFiles | None, *, apart: bool) -> Fleet | None:
    """Its processes, which begin to load, where it has any: one a device, or, `apart`, one in any
    case, as rows may kill it. To be closed, or given to `load_job_engine`."""
    if spec.devices is not None:
        return _begin_fleet(spec, files, parse_devices(spec.devices, each=spec.tensor_parallel))
    return _begin_fleet(spec, files, [Device(spec.device, spec.device)]) if apart else None


def load_job_engine(
    spec: JobSpec, files: ModelFiles | None, *, apart: bool = False, begun: Fleet | None = None
) -> Engine:
    """The engine of this spec: in this process, which imports torch, or in those that `begun`, or
    `begin_job_engine`, has."""
    if (fleet := begun or begin_job_engine(spec, files, apart=apart)) is not None:
        return _loaded(fleet)
    if spec.engine == "echo":
        from batchgen.engine.run.echo import EchoEngine

        return EchoEngine(*_echo_sizes(spec))
    with importing:
        from batchgen.engine.run.factory import load_engine

    assert files is not None, "only the echo engine runs without a model"
    return load_engine(engine_config(spec, files))


def _begin_fleet(spec: JobSpec, files: ModelFiles | None, devices: Sequence[Device]) -> Fleet:
    from batchgen.engine.processes.fleet import begin_fleet
    from batchgen.engine.processes.wire import Load

    if spec.engine == "echo" or files is None:
        return begin_fleet(devices, Load(None, *_echo_sizes(spec)))
    return begin_fleet(devices, Load(engine_config(spec, files), facts=files.facts))


def _loaded(fleet: Fleet) -> Fleet:
    try:
        fleet.wait_until_loaded()
    except BaseException:
        fleet.close()
        raise
    return fleet


def _echo_sizes(spec: JobSpec) -> tuple[int, int]:
    return spec.max_num_seqs or _ECHO_SEQS, spec.max_model_len or ECHO_LEN


def engine_config(spec: JobSpec, files: ModelFiles) -> EngineConfig:
    """What the engine is built from: the spec's choices and what the model's files say."""
    return EngineConfig(
        model=files.path,
        device=spec.device,
        tensor_parallel=spec.tensor_parallel,
        dtype=spec.dtype,
        eos_token_ids=files.eos_token_ids,
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=spec.max_num_batched_tokens,
        max_model_len=spec.max_model_len,
        gpu_memory_utilization=spec.gpu_memory_utilization,
        block_size=spec.block_size,
        enable_prefix_caching=spec.enable_prefix_caching,
        fold=spec.fold,
        attention_backend=spec.attention_backend,
        enforce_eager=spec.enforce_eager,
        deterministic=spec.deterministic,
        kv_cache_dtype=spec.kv_cache_dtype,
        quantization=quantization_of(spec, files),
        adapters=tuple(
            Adapter("" if one.is_merged else one.name, one.config.folder, one.weights)
            for one in files.adapters
        ),
        trust_remote_code=spec.trust_remote_code,
        allow_pickle=spec.allow_pickle,
    )
