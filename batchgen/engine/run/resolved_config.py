"""Decides every setting that an `EngineConfig` leaves open (None), by the model and its device.

Each decision is logged once, at INFO, with its reason.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from batchgen.engine.config import GPU_BLOCK_SIZE, WAITING_PER_SEQUENCE, EngineConfig
from batchgen.engine.device import device_memory
from batchgen.engine.execution.step_runner import ServedModel
from batchgen.engine.run.cache_size import decide_num_blocks
from batchgen.errors import UsageError

__all__ = ["ResolvedConfig", "decide", "resolve"]

_logger = logging.getLogger(__name__)

_CPU_BLOCK_SIZE = 16
_GPU_SEQS = 256
_CPU_SEQS = 64
_REORDER_WINDOW = 1024
_LARGE_MODEL = 3_000_000_000
"""Parameters from which on reading them takes longer than the rest of a decode step."""
_RIDGE_TOKENS = 256
"""The ridge point of the roofline: a Hopper GPU takes as long to multiply 16-bit weights with so
many tokens as to read them."""


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """An EngineConfig without a None; `depth` is the number of steps in flight."""

    max_num_seqs: int
    fewest_seqs: int
    """As many sequences run whenever there are; more, up to `max_num_seqs`, where they pay
    (`scheduling.sequence_limit`)."""
    max_num_batched_tokens: int
    min_token_budget: int | None
    """See `scheduling.token_budget`; None: every step may have `max_num_batched_tokens`."""
    max_model_len: int
    block_size: int
    num_blocks: int
    reorder_window: int
    depth: int


def resolve(model: ServedModel, config: EngineConfig) -> ResolvedConfig:
    """Decide what the config leaves open. Raises UsageError for what cannot be."""
    on_gpu = model.device.type == "cuda"
    fewest = config.max_num_seqs or (_GPU_SEQS if on_gpu else _CPU_SEQS)
    max_num_seqs = config.max_num_seqs or _most_seqs(model, on_gpu)
    max_num_batched_tokens = _batched_tokens(model, config, max_num_seqs, on_gpu)
    block_size = config.block_size or decide(
        "block_size",
        GPU_BLOCK_SIZE if on_gpu else _CPU_BLOCK_SIZE,
        "a tile of keys is one block" if on_gpu else "a row wastes half a block on average",
    )
    longest = _longest(model, config)
    reorder_window = config.reorder_window or decide(
        "reorder_window",
        max(_REORDER_WINDOW, WAITING_PER_SEQUENCE * max_num_seqs if on_gpu else 0),
        "rows that begin alike together, long outputs first",
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
    if model.group is not None:
        num_blocks = model.group.smallest(num_blocks)
    max_model_len = min(longest, num_blocks * block_size)
    if max_model_len < longest:
        decide("max_model_len", max_model_len, "what the KV cache holds")
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
        return decide("max_num_seqs", _CPU_SEQS, "a CPU gains little from more")
    memory = device_memory(model.device)
    most = _GPU_SEQS * (1 if memory < 32 << 30 else 2 if memory < 64 << 30 else 4)
    reason = f"{_GPU_SEQS} keep a GPU busy; more where many are left and memory holds them"
    return decide("max_num_seqs", most, reason)


def _batched_tokens(
    model: ServedModel, config: EngineConfig, max_num_seqs: int, on_gpu: bool
) -> int:
    decided = config.max_num_batched_tokens or decide(
        "max_num_batched_tokens",
        max(8192 if on_gpu else 512, max_num_seqs),
        "fills matrix products" if on_gpu else "bounds memory, long enough for matrix products",
    )
    row_limit = model.max_num_tokens
    if row_limit is not None and decided > row_limit:
        return decide("max_num_batched_tokens", row_limit, "the model is exact up to it")
    return decided


def _min_token_budget(
    model: ServedModel, config: EngineConfig, fewest_seqs: int, on_gpu: bool
) -> int | None:
    """For a model whose decode steps wait for its weights to be read; none if the user chose a
    budget."""
    if not on_gpu or config.max_num_batched_tokens or model.weights is None:
        return None
    if model.weights.active_parameters < _LARGE_MODEL:
        return None
    reason = "prompts are computed while decoding waits for the weights"
    return decide("min_token_budget", fewest_seqs + _RIDGE_TOKENS, reason)


def _longest(model: ServedModel, config: EngineConfig) -> int:
    asked = config.max_model_len
    if asked is None:
        return decide("max_model_len", model.max_position, "what the model allows")
    if asked > model.max_position:
        raise UsageError(
            f"max_model_len {asked} exceeds the model's {model.max_position} positions",
            f"use --max-model-len {model.max_position} or less",
        )
    return asked


def decide(name: str, value: int, reason: str) -> int:
    """The value; logs it with its reason."""
    _logger.info("%s = %d: %s", name, value, reason)
    return value
