"""An unmodified transformers decoder over a paged KV cache: one ragged row in, logits out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from batchgen.engine.attention.ends import Ends, ends_of
from batchgen.engine.attention.interface import (
    AttentionBackend,
    AttentionMetadata,
    AttentionSpec,
    BlockCopier,
    CacheShape,
)
from batchgen.engine.model.binding import AttentionCall, CallCursor, StepContext, bind
from batchgen.engine.model.discovery import Discovery
from batchgen.engine.model.limits import freeze_rope
from batchgen.engine.parallel.group import Group
from batchgen.engine.weights import Weights

__all__ = ["Model", "bind_model"]

_TOKENS_PER_END = 2
"""A step of fewer is not worth the last layer's second call."""


@dataclass(slots=True)
class Model:
    """What the engine runs. Made by `run.loader.load_model`, which has proven it first."""

    module: Any
    model_type: str
    specs: tuple[AttentionSpec, ...]
    vocab_size: int
    max_position: int
    """The most tokens one sequence may have, by the model and by what is exact."""
    dtype: torch.dtype
    cache_dtype: torch.dtype
    """Of keys and values in the KV cache: `dtype`, unless they are rounded."""
    device: torch.device
    backend: AttentionBackend
    step: StepContext
    calls: list[AttentionCall]
    cursors: list[CallCursor]
    keeps_logits: bool
    """Whether the module's forward takes `logits_to_keep`."""
    max_num_tokens: int | None = None
    """The most tokens of one step, whose budget heeds it; None = any number. Padding comes after
    them and does not count."""
    input_vocab_size: int | None = None
    """Token ids that a prompt may hold, where the head answers for fewer; None = `vocab_size`."""
    group: Group | None = None
    """The ranks that share the model; its calls have this rank's heads."""
    adapters: Any = None
    """Told of each step before its forward, where rows choose among LoRA adapters."""
    ends_alone: bool = False
    """Whether the last layer answers for the tokens of `logits_indices` alone, where they are few:
    proven by `last_layer.binding`."""
    weights: Weights | None = None
    """As loaded: some lie elsewhere, packed, by now."""
    notes: list[str] = field(default_factory=list)
    """What a user should know of decisions taken at load, one sentence each."""
    cautions: list[str] = field(default_factory=list)
    """What cuts rows that the model's config would allow, one sentence each."""
    _copier: BlockCopier | None = None

    def bytes_per_block(self, block_size: int) -> int:
        """Memory of one KV block over all attention calls, in bytes."""
        sizes = (self.backend.bytes_per_block(s, block_size, self.cache_dtype) for s in self.specs)
        return sum(sizes)

    def allocate_cache(self, num_blocks: int, block_size: int) -> None:
        """Give every attention call its own empty KV cache; an earlier one is dropped."""
        self.release_cache()
        shape = CacheShape(num_blocks, block_size, self.cache_dtype, self.device)
        for call in self.calls:
            call.cache = self.backend.allocate(call.spec, shape)
        self._copier = self.backend.copier([call.cache for call in self.calls], num_blocks)

    def release_cache(self) -> None:
        """Free the KV cache."""
        self._copier = None
        for call in self.calls:
            call.cache = None

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Of the KV cache, from the first block of each pair to the second, before the next step
        and after those launched by now. A second one is in no other pair."""
        assert self._copier is not None
        self._copier.copy(pairs)

    @torch.inference_mode()
    def forward(
        self,
        input_ids: torch.Tensor,  # int64 [num_tokens]
        positions: torch.Tensor,  # int64 [num_tokens]
        metadata: AttentionMetadata,
        logits_indices: torch.Tensor,  # int64 [num_logits]: places in the row
    ) -> torch.Tensor:  # [num_logits, vocab_size]
        """Run one step: writes the row's keys and values, answers for `logits_indices` alone."""
        step, ends = self.step, self._ends(metadata, logits_indices)
        self.backend.prepare(metadata)
        if ends is not None:
            self.backend.prepare(ends.metadata)
        step.metadata, step.ends = metadata, ends
        for cursor in self.cursors:
            cursor.position = 0
        keep = {"logits_to_keep": logits_indices} if self.keeps_logits and ends is None else {}
        try:
            output = self.module(
                input_ids=input_ids[None], position_ids=positions[None], use_cache=False, **keep
            )
        finally:
            step.ends = None
        logits: torch.Tensor = output.logits[0]
        if ends is not None:
            return logits[: len(logits_indices)]
        return logits if self.keeps_logits else logits[logits_indices]

    def _ends(self, metadata: AttentionMetadata, logits_indices: torch.Tensor) -> Ends | None:
        """The tokens that the last layer answers for; None where it does for all of them."""
        if not self.ends_alone:
            return None
        if not len(logits_indices):  # a step of chunks: any one token, since layers expect some
            logits_indices = metadata.cu_seqlens_q[1:2].long() - 1
        most = len(metadata.slot_mapping) // _TOKENS_PER_END
        return ends_of(metadata, logits_indices) if len(logits_indices) <= most else None


def bind_model(
    module: nn.Module, found: Discovery, backend: AttentionBackend, max_position: int
) -> Model:
    """Bind a module's attention calls to `backend`; the module is used as it is from then on."""
    freeze_rope(module)
    step = StepContext()
    names = [call.module_name for call in found.calls]
    calls, cursors = bind(module, names, found.specs, backend, step)
    parameter = next(module.parameters())
    return Model(
        module=module,
        model_type=found.model_type,
        specs=found.specs,
        vocab_size=found.vocab_size,
        max_position=max_position,
        dtype=parameter.dtype,
        cache_dtype=parameter.dtype,
        device=parameter.device,
        backend=backend,
        step=step,
        calls=calls,
        cursors=cursors,
        keeps_logits="logits_to_keep" in inspect.signature(module.forward).parameters,
    )
