"""What a GGUF file becomes: a transformers config, and the source of each weight; or a refusal.

Every metadata key of the file's architecture and every tensor takes effect, is listed as being
without any, or the file is refused by its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchgen.gguf.architectures import ARCHITECTURES
from batchgen.gguf.floats import read_floats
from batchgen.gguf.harmless import without_effect
from batchgen.gguf.layout import Layout
from batchgen.gguf.parts import GgufFile, read_gguf
from batchgen.gguf.reading import Reading, refused
from batchgen.gguf.tensors import Source, assign
from batchgen.gguf.tokenizer.keys import tokenizer_keys

__all__ = ["Plan", "plan_gguf", "read_plan"]

_ROPE_TENSORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")
_OLD_TENSORS = ("attn_rot_embd", "attn.rot_embd")
_IGNORED_TENSORS = {
    **dict.fromkeys(_ROPE_TENSORS, "applied to the rotary frequencies"),
    **dict.fromkeys(_OLD_TENSORS, "rotary frequencies of old files; llama.cpp computes them"),
    "attn.bias": "a causal mask; llama.cpp makes its own",
    "attn.masked_bias": "a causal mask's value; llama.cpp has its own",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """`layout`: config and rotary frequencies. `weights`: by the module's name of each.

    `used`, `unused`: the file's keys that take effect, and those without any, with the reason.
    """

    file: GgufFile
    layout: Layout
    weights: dict[str, list[Source]]
    used: tuple[str, ...]
    unused: dict[str, str] = field(default_factory=dict)


def read_plan(path: Path) -> Plan:
    """Read `path` and plan it. Raises ModelRefusedError, naming what is not understood."""
    return plan_gguf(read_gguf(path))


def plan_gguf(file: GgufFile) -> Plan:
    """See `read_plan`."""
    architecture = file.metadata.get("general.architecture")
    if file.metadata.get("general.type", "model") != "model":
        raise refused(file.path, f"it is no model but of type {file.metadata['general.type']!r}")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        served = ", ".join(sorted(ARCHITECTURES))
        words = f"its architecture {architecture!r} is not served; served: {served}"
        raise refused(file.path, words)
    read = Reading(file)
    layout = ARCHITECTURES[architecture](read)
    ignored = {k: v for k, v in _IGNORED_TENSORS.items() if not _unapplied(k, layout)}
    weights = assign(read, layout.top, layout.layer, layout.layer_prefix, ignored)
    _check_vocabulary(read)
    _check_ropes(read, layout)
    used, unused = tokenizer_keys(file.metadata, file.path)
    unused |= without_effect(read, layout)
    used |= read.used & file.metadata.keys()
    return Plan(file, layout, weights, tuple(sorted(used)), unused)


def _unapplied(stem: str, layout: Layout) -> bool:
    """Whether a tensor of rotary factors would be passed over by this architecture."""
    if stem not in _ROPE_TENSORS:
        return False
    factors = {rope.factors for rope in layout.ropes.values()}
    if stem == "rope_factors_long":  # unused where the context is no longer than the original one
        stem = "rope_factors_short"
    return f"{stem}.weight" not in factors


def _check_ropes(read: Reading, layout: Layout) -> None:
    """Raises ModelRefusedError for angles that cannot be computed."""
    for rope in layout.ropes.values():
        factors = read_floats(read, rope.factors) if rope.factors else None
        if factors is not None and len(factors) != rope.dims // 2:
            raise refused(read.path, f"the tensor {rope.factors} has {len(factors)} values")
        if not (rope.base > 0 and rope.factor > 0 and all(one > 0 for one in factors or ())):
            raise refused(read.path, "its rope has a base or a factor that is not above nought")
        try:
            rope.frequencies(factors)
        except (ArithmeticError, ValueError) as error:
            raise refused(read.path, f"its rope cannot be computed: {error}") from error


def _check_vocabulary(read: Reading) -> None:
    tokens: Any = read.metadata.get("tokenizer.ggml.tokens")
    rows = read.shape("token_embd.weight")[0]
    if isinstance(tokens, list) and len(tokens) != rows:
        raise refused(
            read.path, f"it names {len(tokens)} tokens, and token_embd.weight has {rows} rows"
        )
