"""Up to which length a model is exact when rows are packed: its own limits, found in its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from batchgen.engine.model.discovery import Discovery
from batchgen.errors import ModelRefusedError

__all__ = ["Limits", "find_limits", "freeze_rope"]

POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
NO_LIMIT = 1 << 20
OWN_ROPE_TYPE = "batchgen_own_rope_type"


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_position`: the config's, or what of it is exact, for the `reason`."""

    max_position: int
    max_num_tokens: int | None
    """The most tokens one step's row may have; None = any number."""
    reason: str | None = None
    notes: list[str] = field(default_factory=list)

    def check(self, model_type: str, max_model_len: int | None, proven: int) -> None:
        """Refuse a length that was asked for and cannot be exact, and a model that changes within
        the `proven` tokens of the proof."""
        if self.reason and self.max_position < proven:
            raise ModelRefusedError(
                f"model type {model_type!r} cannot be proven: {self.reason}, and the proof takes "
                f"{proven}",
                "correct its config.json (of longrope, original_max_position_embeddings): no "
                "trained model changes so early",
            )
        if max_model_len is not None and max_model_len > self.max_position and self.reason:
            raise ModelRefusedError(
                f"model type {model_type!r} cannot be served exactly up to max_model_len "
                f"{max_model_len}: {self.reason}",
                f"ask for --max-model-len {self.max_position} or less",
            )


def find_limits(module: nn.Module, found: Discovery) -> Limits:
    """The shortest of the config's length and the lengths at which something changes its mind."""
    own = _own_position(module)
    candidates: list[tuple[int, str]] = [*_rope_limits(module), *_scale_limits(module)]
    if found.exact_length is not None:
        candidates.append((found.exact_length, "its mask is chunked beyond that"))
    length, reason = min(candidates, default=(own, ""))
    row = min((limit for limit, _ in _scale_limits(module)), default=None)
    if length >= own:
        return Limits(own, row)
    reason = f"sequences are exact up to {length} tokens only, {reason}"
    note = f"sequences are limited to {length} of the model's {own} tokens: {reason}"
    return Limits(length, row, reason, [note])


def _own_position(module: nn.Module) -> int:
    config: Any = module.config
    text = config.get_text_config()
    for name in POSITION_NAMES:
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return NO_LIMIT


def freeze_rope(module: Any) -> None:
    """Keep the frequencies that hold up to the limit, so that no step asks how long its rows are
    (which would wait for the GPU, and could not be captured)."""
    for part in module.modules():
        kinds = _rope_kinds(part)
        frozen = {layer: "default" if _depends(kind) else kind for layer, kind in kinds.items()}
        if frozen != kinds:
            setattr(part, OWN_ROPE_TYPE, part.rope_type)
            part.rope_type = frozen.get(None, frozen)


def _rope_kinds(part: nn.Module) -> dict[str | None, Any]:
    """The kind of RoPE by layer type, None for all layers, as the model came."""
    kinds: Any = getattr(part, OWN_ROPE_TYPE, getattr(part, "rope_type", None))
    return kinds if isinstance(kinds, dict) else {None: kinds}


def _rope_limits(module: nn.Module) -> Iterator[tuple[int, str]]:
    """RoPE whose frequencies depend on the longest sequence of the row (dynamic, longrope)."""
    for part in module.modules():
        for layer_type, kind in _rope_kinds(part).items():
            if not _depends(kind):
                continue
            config: Any = part.config
            rope = getattr(config, "rope_parameters", None) or {}
            rope = rope.get(layer_type, rope) if layer_type else rope
            length = rope.get("original_max_position_embeddings") if kind == "longrope" else None
            length = length or getattr(part, "original_max_seq_len", config.max_position_embeddings)
            yield int(length), f"its RoPE ({kind}) depends on the longest sequence of a step"


def _depends(kind: Any) -> bool:
    return isinstance(kind, str) and ("dynamic" in kind or kind == "longrope")


def _scale_limits(module: nn.Module) -> Iterator[tuple[int, str]]:
    """Llama 4's query scale, which counts places in the row and stays 1 before `floor_scale`."""
    for part in module.modules():
        floor = getattr(part, "floor_scale", None)
        tuned = getattr(part, "attn_temperature_tuning", False) and not getattr(part, "use_rope", 1)
        if tuned and isinstance(floor, int | float) and floor > 1:
            yield int(floor) - 1, "its query scale counts places in the row"
