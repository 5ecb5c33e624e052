"""How a model's own attention calls reach the paged cache: each is bound to its module at load.

transformers looks our function up by name; everything a call needs beyond its tensors hangs on
the module that makes it, so nothing is global and two models can live side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface

from batchgen.engine.attention.ends import Ends
from batchgen.engine.attention.interface import AttentionBackend, AttentionMetadata, AttentionSpec

__all__ = [
    "ATTENTION_NAME",
    "CALL_ATTRIBUTE",
    "AttentionCall",
    "BoundCall",
    "CallCursor",
    "StepContext",
    "bind",
    "use_attention",
]

ATTENTION_NAME = "batchgen"
CALL_ATTRIBUTE = "batchgen_call"


class StepContext:
    """The step that is being run, seen by every call of one model."""

    __slots__ = ("ends", "metadata")

    def __init__(self) -> None:
        self.metadata: AttentionMetadata | None = None
        self.ends: Ends | None = None
        """The tokens for which alone the last layer is to answer; None = for all."""


class BoundCall(Protocol):
    """What hangs on a module that attends: `AttentionCall`, `CallCursor`, `compiled.OpaqueCall`."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> Tensor:
        """Attend over the paged cache; shapes as `AttentionBackend.forward`."""


@dataclass(slots=True)
class AttentionCall:
    """One attention call of the forward: its shape, its cache, and the step it is part of."""

    spec: AttentionSpec
    backend: AttentionBackend
    step: StepContext
    cache: Any = None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> Tensor:
        """Attend over the paged cache; shapes as `AttentionBackend.forward`."""
        metadata = self.step.metadata
        assert metadata is not None
        return self.backend.forward(query, key, value, self.cache, self.spec, metadata, sinks)

    def store(self, key: Tensor, value: Tensor) -> None:
        """Write keys and values alone; shapes as `AttentionBackend.forward`."""
        metadata = self.step.metadata
        assert metadata is not None
        self.backend.store(key, value, self.cache, self.spec, metadata)


class CallCursor:
    """The calls of a module that attends several times a forward, served in their order."""

    __slots__ = ("calls", "position")

    def __init__(self, calls: Sequence[AttentionCall]) -> None:
        self.calls = tuple(calls)
        self.position = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> Tensor:
        """The next call's attention."""
        call = self.calls[self.position]
        self.position += 1
        return call(query, key, value, sinks)


def attend(
    module: nn.Module,
    query: Tensor,  # [1, num_heads, num_tokens, head_dim]
    key: Tensor,  # [1, num_kv_heads, num_tokens, head_dim]
    value: Tensor,  # [1, num_kv_heads, num_tokens, v_head_dim]
    attention_mask: Tensor | None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:  # [1, num_tokens, num_heads, v_head_dim]
    """The function transformers calls: scale, window and soft cap were settled by discovery."""
    call: BoundCall = getattr(module, CALL_ATTRIBUTE)
    row = call(query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), s_aux)
    return row[None], None


def bind(
    module: nn.Module,
    names: Sequence[str],
    specs: Sequence[AttentionSpec],
    backend: AttentionBackend,
    step: StepContext,
) -> tuple[list[AttentionCall], list[CallCursor]]:
    """Hang every call on the submodule that makes it. `names[i]` makes the call `specs[i]`."""
    calls = [AttentionCall(spec, backend, step) for spec in specs]
    by_name: dict[str, list[AttentionCall]] = {}
    for name, call in zip(names, calls, strict=True):
        by_name.setdefault(name, []).append(call)
    cursors: list[CallCursor] = []
    for name, own in by_name.items():
        bound: BoundCall = own[0]
        if len(own) > 1:
            bound = CallCursor(own)
            cursors.append(bound)
        setattr(module.get_submodule(name), CALL_ATTRIBUTE, bound)
    use_attention(module, ATTENTION_NAME)
    return calls, cursors


def use_attention(module: nn.Module, name: str) -> None:
    """Make every part of the model look `name` up in transformers' AttentionInterface."""
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            config._attn_implementation = name


AttentionInterface.register(ATTENTION_NAME, attend)
