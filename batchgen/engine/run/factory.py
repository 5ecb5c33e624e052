"""From an `EngineConfig` to a running engine: load, prove, compile, size, build."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from batchgen.causes import first_line
from batchgen.engine.checkpoint.load_failures import no_memory
from batchgen.engine.config import EngineConfig
from batchgen.engine.cuda.buckets import token_sizes
from batchgen.engine.device import device_name, on_device, resolve_device
from batchgen.engine.execution.step_runner import ServedModel
from batchgen.engine.failures import is_out_of_memory
from batchgen.engine.model.model import Model
from batchgen.engine.parallel.group import Group
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.loader import load_model
from batchgen.engine.run.resolved_config import ResolvedConfig, decide, resolve
from batchgen.engine.run.runners import make_runner
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence_limit import SequenceLimit
from batchgen.startup.folders import prepare_compilers

__all__ = [
    "build_engine",
    "load_engine",
    "load_follower",
    "load_over",
    "load_served",
    "log_load_notes",
]

T = TypeVar("T")
_logger = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.Lock()
"""transformers loads by patching torch for the whole process: of two at once one lacks weights."""
_WATERMARK = 0.01
_MOST_LOGITS = 64 << 20
"""Of a step's scored positions: 256 MiB in float32."""


def load_engine(config: EngineConfig) -> LLMEngine:
    """Load, prove and size; raises ModelRefusedError or UsageError before any row is touched."""
    return load_served(config)[1]


def load_served(config: EngineConfig) -> tuple[Model, LLMEngine]:
    """As `load_engine`, with the model beside its engine."""
    try:
        with _ONE_AT_A_TIME:
            return _load_served(config)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise no_memory(config.model, error) from error


def _load_served(config: EngineConfig) -> tuple[Model, LLMEngine]:
    if config.tensor_parallel > 1:
        from batchgen.engine.run.tensor_parallel import load_parallel

        return load_parallel(config)
    return load_over(config)


def load_over(
    config: EngineConfig, group: Group | None = None, make: type[LLMEngine] = LLMEngine
) -> tuple[Model, LLMEngine]:
    """A model on one device, or the leader's part of it, and its engine."""
    with on_device(resolve_device(config.device)):
        model, config = _load(config, group)
        return model, _compiled(model, config, partial(build_engine, make=make))


def load_follower(config: EngineConfig, group: Group) -> Any:
    """Another rank's part: what runs the leader's steps, by `follow`."""
    with on_device(resolve_device(config.device)):
        model, config = _load(config, group)
        return _compiled(model, config, _build_follower)


def _load(config: EngineConfig, group: Group | None) -> tuple[Model, EngineConfig]:
    if config.device != "cpu":
        prepare_compilers()
    model = load_model(config, group)
    log_load_notes(model, config)
    if model.adapters is not None and not model.adapters.in_graphs:
        config = dataclasses.replace(config, enforce_eager=True)
    return model, config


def log_load_notes(model: Model, config: EngineConfig) -> None:
    """Log what was decided at load. What shortens rows is a warning, unless the user chose a
    length."""
    _logger.info("model on %s in %s", model.device, model.dtype)
    for note in model.notes:
        _logger.info("%s", note)
    for caution in model.cautions:
        _logger.log(logging.INFO if config.max_model_len else logging.WARNING, "%s", caution)


def _compiled(model: Model, config: EngineConfig, build: Callable[[Model, EngineConfig], T]) -> T:
    """On a GPU with compiled layers; with the layers as they are, if they do not compile."""
    options = None
    if model.device.type == "cuda" and config.deterministic:
        from batchgen.engine.steady.checks import proven_steady
        from batchgen.engine.steady.cuda.parts import steady_options

        build, options = proven_steady(build), steady_options()
    if model.device.type != "cuda" or config.enforce_eager:
        return build(model, config)
    from torch._dynamo.exc import TorchDynamoException

    from batchgen.engine.cuda.compiled import compile_layers, uncompile_layers

    count = compile_layers(model, options=options)
    decide("compiled layers", count, "fewer, larger kernels")
    try:
        return build(model, config)  # measures a step, which compiles
    except TorchDynamoException as error:
        reason = first_line(error)
    _logger.warning("layers run as they are: compiling them failed: %s", reason)
    uncompile_layers(model)
    return build(model, config)


def build_engine(
    model: ServedModel, config: EngineConfig, make: type[LLMEngine] = LLMEngine
) -> LLMEngine:
    """An engine over a loaded model."""
    resolved = resolve(model, config)
    model.allocate_cache(resolved.num_blocks, resolved.block_size)
    scheduler = _scheduler(model, config, resolved)
    return make(
        scheduler,
        make_runner(model, config, resolved, scheduler.num_slots),
        max_model_len=resolved.max_model_len,
        vocab_size=model.input_vocab_size or model.vocab_size,
        eos_token_ids=config.eos_token_ids,
        depth=resolved.depth,
        device=_name_of_devices(model),
        fold=config.fold,
        on_device=on_device(model.device),
    )


def _build_follower(model: Model, config: EngineConfig) -> Any:
    resolved = resolve(model, config)
    model.allocate_cache(resolved.num_blocks, resolved.block_size)
    return make_runner(model, config, resolved, _scheduler(model, config, resolved).num_slots)


def _name_of_devices(model: ServedModel) -> str:
    name = device_name(model.device)
    return name if model.group is None else f"{model.group.size} x {name}"


def _scheduler(model: ServedModel, config: EngineConfig, resolved: ResolvedConfig) -> Scheduler:
    is_padded = resolved.min_token_budget is not None and not config.enforce_eager
    sizes = token_sizes(resolved.max_num_batched_tokens, large_model=True) if is_padded else ()
    return Scheduler(
        BlockManager(resolved.num_blocks, resolved.block_size),
        resolved.max_num_seqs,
        resolved.max_num_batched_tokens,
        watermark=_WATERMARK,
        reorder_window=resolved.reorder_window,
        min_token_budget=resolved.min_token_budget,
        prefix_caching=config.enable_prefix_caching,
        max_num_scored=max(1, _MOST_LOGITS // model.vocab_size),
        sequence_limit=SequenceLimit(
            resolved.fewest_seqs, resolved.max_num_seqs, resolved.num_blocks * resolved.block_size
        ),
        step_sizes=tuple(sizes),
        block_copies=model.group is None,  # the other ranks would have to be told of them
    )
