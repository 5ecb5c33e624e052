"""What an engine is built from. `None` means: decide for me (`run/resolved_config.py` does)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "CPU_ROUNDINGS",
    "GPU_BLOCK_SIZE",
    "PROOF_BLOCK_SIZE",
    "WAITING_PER_SEQUENCE",
    "Adapter",
    "EngineConfig",
    "ModelFacts",
]


CPU_ROUNDINGS = ("int8", "q4")
"""Values of `--quantization` that round any dense checkpoint's weights, on the CPU."""
GPU_BLOCK_SIZE = 64
"""Tokens of a KV block on a GPU: a tile of keys is one block."""
PROOF_BLOCK_SIZE = 16
"""Block size of the proof at load: small, so that its short sequences have several blocks."""
WAITING_PER_SEQUENCE = 16
"""Rows that a job lets wait for each sequence that may run, and that a GPU, whose cache holds many
beginnings, orders together."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter as peft saves it. `name`: what requests call it; empty: it is merged into the
    model, for all of them."""

    name: str
    folder: Path
    weights: Path


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model before torch is imported: its config.json, or the same made of a
    GGUF file, and its weight files, where reading them ahead pays."""

    config: dict[str, Any] = field(default_factory=dict)
    weights: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Names are vLLM's where it has one. `model` is a local folder or a `.gguf` file."""

    model: Path
    device: str = "auto"
    tensor_parallel: int = 1
    """Devices that one model is split over, from `device` on; a process each."""
    dtype: str = "auto"
    eos_token_ids: tuple[int, ...] = ()
    """Every id that ends a sequence, as the job found them in the model's files."""
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9
    block_size: int | None = None
    num_blocks: int | None = None
    """Size of the KV cache in blocks; tests set it to force preemption."""
    reorder_window: int | None = None
    """Waiting requests are admitted longest output first within windows of so many arrivals."""
    enable_prefix_caching: bool = True
    """Prompts that begin alike are computed once, as long as the cache has room."""
    share_reads: bool = True
    """On CUDA, rows that begin with the same blocks read them together where that pays."""
    fold: bool = True
    """Requests that must have equal answers are computed once."""
    attention_backend: str = "auto"
    enforce_eager: bool = False
    """On CUDA: neither compile layers nor capture graphs."""
    deterministic: bool = False
    """Completions may not depend on the batch (batch invariance): see `engine.steady`."""
    kv_cache_dtype: str = "auto"
    """`auto`: the model's dtype; `fp8`: float8 (e4m3, scale 1), half the bytes, rounded."""
    quantization: str | None = None
    """`int8`, `q4`: weights rounded to 8 or 4 bits on the CPU, opt-in. `gguf`: a GGUF file's
    weights stay in its blocks, on the CPU; `none`: they do not. None: see `gguf.weights_kept`."""
    load_format: str = "auto"
    """`dummy`: random weights of the real shapes, for benchmarks; the folder needs only its
    config.json."""
    adapters: tuple[Adapter, ...] = ()
    trust_remote_code: bool = False
    allow_pickle: bool = False
    seed: int = 0

    @property
    def chooses_adapters(self) -> bool:
        """Whether requests say which adapter they use."""
        return any(adapter.name for adapter in self.adapters)
