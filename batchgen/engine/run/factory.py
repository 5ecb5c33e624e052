"""From an `EngineConfig` to a running engine: the one place that decides every None.

Each decision is logged once, at INFO, with its reason.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from batchgen.causes import first_line
from batchgen.engine.config import GPU_BLOCK_SIZE, EngineConfig
from batchgen.engine.cuda.buckets import token_sizes
from batchgen.engine.device import device_memory, device_name, on_device
from batchgen.engine.execution.step_runner import ServedModel
from batchgen.engine.failures import is_out_of_memory
from batchgen.engine.model.load_failures import no_memory
from batchgen.engine.model.model import Model
from batchgen.engine.parallel.group import Group
from batchgen.engine.run.cache_size import decide_num_blocks
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.loader import load_model, resolve_device
from batchgen.engine.run.runners import ResolvedConfig, make_runner
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence_limit import SequenceLimit
from batchgen.engine.weights import Weights
from batchgen.errors import UsageError
from batchgen.startup.folders import prepare_compilers

__all__ = [
    "build_engine",
    "load_engine",
    "load_follower",
    "load_over",
    "load_served",
    "log_load_notes",
    "resolve",
]

T = TypeVar("T")
_logger = logging.getLogger(__name__)

_CPU_BLOCK_SIZE = 16
_WATERMARK = 0.01
_GPU_SEQS = 256
_CPU_SEQS = 64
_STEP_BYTES = 8 << 30
"""What an H200 reads in 2 ms: about a small model's step without its keys and values."""
_MOST_LOGITS = 64 << 20
"""Of a step's scored positions: 256 MiB in float32."""
_REORDER_WINDOW = 1024
_LARGE_MODEL = 3_000_000_000
"""Parameters from which on reading them takes longer than the rest of a decode step."""
_RIDGE_TOKENS = 256
"""The ridge point of the roofline: a Hopper GPU takes as long to multiply 16-bit weights with so
many tokens as to read them."""


def load_engine(config: EngineConfig) -> LLMEngine:
    """Load, prove and size; raises ModelRefusedError or UsageError before any row is touched."""
    return load_served(config)[1]


def load_served(config: EngineConfig) -> tuple[Model, LLMEngine]:
    """As `load_engine`, with the model beside its engine."""
    try:
        if config.tensor_parallel > 1:
            from batchgen.engine.run.tensor_parallel import load_parallel

            return load_parallel(config)
        return load_over(config)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise no_memory(config.model, error) from error


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
    if config.chooses_adapters and not config.enforce_eager:
        _logger.info("no graphs and no compiled layers: rows choose among adapters")
        config = dataclasses.replace(config, enforce_eager=True)
    model = load_model(config, group)
    log_load_notes(model, config)
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
        from batchgen.engine.steady.cuda.parts import steady_options
        from batchgen.engine.steady.hold import proven_steady

        build, options = proven_steady(build), steady_options()
    if model.device.type != "cuda" or config.enforce_eager:
        return build(model, config)
    from torch._dynamo.exc import TorchDynamoException

    from batchgen.engine.cuda.compiled import compile_layers, uncompile_layers

    count = compile_layers(model, options=options)
    _decide("compiled layers", count, "fewer, larger kernels")
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
        vocab_size=getattr(model, "input_vocab_size", None) or model.vocab_size,
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
    name, group = device_name(model.device), getattr(model, "group", None)
    return name if group is None else f"{group.size} x {name}"


def _scheduler(model: ServedModel, config: EngineConfig, resolved: ResolvedConfig) -> Scheduler:
    by_graphs = model.device.type == "cuda" and not config.enforce_eager
    sizes = token_sizes(resolved.max_num_batched_tokens, large_model=True) if by_graphs else ()
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
    )


def resolve(model: ServedModel, config: EngineConfig) -> ResolvedConfig:
    """Decide what the config leaves open. Raises UsageError for what cannot be."""
    on_gpu = model.device.type == "cuda"
    fewest = config.max_num_seqs or (_GPU_SEQS if on_gpu else _CPU_SEQS)
    max_num_seqs = config.max_num_seqs or _most_seqs(model, on_gpu)
    max_num_batched_tokens = _batched_tokens(model, config, max_num_seqs, on_gpu)
    block_size = config.block_size or _decide(
        "block_size",
        GPU_BLOCK_SIZE if on_gpu else _CPU_BLOCK_SIZE,
        "a tile of keys is one block" if on_gpu else "a row wastes half a block on average",
    )
    longest = _longest(model, config)
    reorder_window = config.reorder_window or _decide(
        "reorder_window", _REORDER_WINDOW, "long outputs first shortens the tail"
    )
    num_blocks = config.num_blocks or decide_num_blocks(
        model,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=longest,
        gpu_memory_utilization=config.gpu_memory_utilization,
        # Rows that begin alike are together within a window: what one window computed, the next
        # finds. On a GPU the sequences' own share is many times that.
        num_remembered=reorder_window if config.enable_prefix_caching and not on_gpu else 0,
    )
    group: Group | None = getattr(model, "group", None)
    if group is not None:
        num_blocks = group.smallest(num_blocks)
    max_model_len = min(longest, num_blocks * block_size)
    if max_model_len < longest:
        _decide("max_model_len", max_model_len, "what the KV cache holds")
    return ResolvedConfig(
        max_num_seqs=max_num_seqs,
        fewest_seqs=fewest,
        max_num_batched_tokens=max_num_batched_tokens,
        min_token_budget=_min_token_budget(model, config, fewest, on_gpu),
        max_model_len=max_model_len,
        block_size=block_size,
        num_blocks=num_blocks,
        reorder_window=reorder_window,
        depth=1 if on_gpu else 0,
    )


def _most_seqs(model: ServedModel, on_gpu: bool) -> int:
    if not on_gpu:
        return _decide("max_num_seqs", _CPU_SEQS, "a CPU gains little from more")
    memory = device_memory(model.device)
    most = _GPU_SEQS * (1 if memory < 32 << 30 else 2 if memory < 64 << 30 else 4)
    reason = f"{_GPU_SEQS} keep a GPU busy; more where many are left and memory holds them"
    return _decide("max_num_seqs", most, reason)


def _batched_tokens(
    model: ServedModel, config: EngineConfig, max_num_seqs: int, on_gpu: bool
) -> int:
    decided = config.max_num_batched_tokens or _decide(
        "max_num_batched_tokens",
        max(8192 if on_gpu else 512, max_num_seqs),
        "fills matrix products" if on_gpu else "bounds memory, long enough for matrix products",
    )
    row_limit: int | None = getattr(model, "max_num_tokens", None)
    if row_limit is not None and decided > row_limit:
        return _decide("max_num_batched_tokens", row_limit, "the model is exact up to it")
    return decided


def _min_token_budget(
    model: ServedModel, config: EngineConfig, fewest_seqs: int, on_gpu: bool
) -> int | None:
    """For a model whose decode steps wait for its weights to be read; none if the user chose a
    budget."""
    weights: Weights | None = getattr(model, "weights", None)
    if not on_gpu or config.max_num_batched_tokens or weights is None:
        return None
    if weights.active_parameters < _LARGE_MODEL:
        return None
    reason = "prompts are computed while decoding waits for the weights"
    return _decide("min_token_budget", fewest_seqs + _RIDGE_TOKENS, reason)


def _longest(model: ServedModel, config: EngineConfig) -> int:
    asked = config.max_model_len
    if asked is None:
        return _decide("max_model_len", model.max_position, "what the model allows")
    if asked > model.max_position:
        raise UsageError(
            f"max_model_len {asked} exceeds the model's {model.max_position} positions",
            f"use --max-model-len {model.max_position} or less",
        )
    return asked


def _decide(name: str, value: int, reason: str) -> int:
    _logger.info("%s = %d: %s", name, value, reason)
    return value
