"""How a model's weights are held: in a GGUF file's blocks, or dequantised.

It changes completions, so a job's fingerprint has it, and it is told without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batchgen.devices import num_gpus
from batchgen.gguf_header import TensorInfo, read_gguf_header
from batchgen.startup.compiler import find_compiler, kernels_wanted

__all__ = ["PACKED", "PLAIN", "can_stay", "decide_quantization"]

PACKED = "gguf"
PLAIN = "none"
_BLOCK_TYPES = frozenset({2, 3, 6, 7, 8, 12, 13, 14})
"""ggml's Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K."""


def decide_quantization(
    asked: str | None,
    model: Path,
    *,
    devices: Sequence[str],
    dtype: str = "auto",
    has_adapters: bool = False,
) -> str:
    """`asked`, or what a model gets if nothing is: a quantised `.gguf` file on the CPU keeps its
    blocks where they can be multiplied with quickly and nobody asks for values of another type
    (a dtype) or changes them (an adapter)."""
    if asked is not None:
        return asked
    if dtype != "auto" or has_adapters or not model.is_file():
        return PLAIN
    if not all(_is_cpu(device) for device in devices):
        return PLAIN
    if not kernels_wanted() or find_compiler() is None or not _has_blocks(model):
        return PLAIN
    return PACKED


def can_stay(info: TensorInfo) -> bool:
    """Whether a matrix of this shape and type can be multiplied with as the file has it."""
    return len(info.shape) == 2 and info.kind in _BLOCK_TYPES


def _is_cpu(device: str) -> bool:
    return device.startswith("cpu") or (device == "auto" and not num_gpus())


def _has_blocks(model: Path) -> bool:
    return any(info.kind in _BLOCK_TYPES for info in read_gguf_header(model).tensors.values())
