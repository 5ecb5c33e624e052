"""Decoder layers of Llama's shape on the CPU as one call a step: the whole stack runs in C.

Found by the parts that `optimize` has already proven and bound, kept only when the model's
logits over a paged cache equal those of its own layers. The first layer's forward runs the stack,
the others hand their input on; a call that is no step of the engine goes to the layers themselves.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from batchgen.engine.attention.cpu.paged import CpuAttention
from batchgen.engine.cpu.layers import LayerParts, layer_parts
from batchgen.engine.cpu.stack_pass import Buffers, Pass, Stack
from batchgen.engine.kernels.ops import Operators
from batchgen.engine.kernels.quant import QuantKernels
from batchgen.engine.last_layer.binding import few_logits, prove_ends
from batchgen.engine.memory import give_back_freed
from batchgen.engine.model.binding import AttentionCall, StepContext
from batchgen.engine.model.model import Model
from batchgen.engine.model.proof_logits import each_logits, relative_errors
from batchgen.engine.packed.product import PackedProduct

__all__ = ["bind_stack"]

_LOG = logging.getLogger(__name__)
_TOLERANCE = {torch.float32: (2e-5, 1e-4), torch.bfloat16: (3e-2, 1e-1)}
"""Mean and largest relative error of a row of logits (L2) against the module's own layers. In
bfloat16 it is the noise of one rounding less a sum: 0.014 and 0.05 over 30 layers. Rows in 8 bits
are as near."""
_LOGITS = 8192
"""Of each row, those that are compared, or a few more."""
_ROWS = 8
"""Of a step, at most."""
_ROUNDED_TOLERANCE = (1e-3, 5e-3)
"""In float32 where products round their rows to whole numbers."""


@dataclass(slots=True)
class LayerStack:
    """All decoder layers of a model, run as one."""

    parts: list[LayerParts]
    calls: list[AttentionCall]
    backend: CpuAttention
    step: StepContext
    run_stack: Callable[..., None]
    blocks: Any
    buffers: Buffers
    took_over: bool = False
    """Whether the stack answered in the forward that is under way: the other layers hand on."""
    quant: QuantKernels | None = None
    """Where layers round their rows to 8 bits."""
    layers: Any = None
    first_layer: Any = None
    rounded: torch.Tensor | None = None

    def takes(self, x: torch.Tensor, angles: Any) -> bool:
        """Whether this is a step of the engine, whole and in the model's dtype."""
        metadata = self.step.metadata
        if metadata is None or angles is None or self.calls[0].cache is None:
            return False
        cos, sin = angles
        num_tokens, hidden = metadata.num_tokens, self.parts[0].hidden
        angle_shape = (1, num_tokens, self.calls[0].spec.head_dim)
        return (
            x.shape == (1, num_tokens, hidden)
            and x.dtype == self.buffers.dtype == cos.dtype == sin.dtype
            and cos.shape == sin.shape == angle_shape
            and cos.stride() == sin.stride()
            and cos.stride(2) == 1
            and hasattr(self.calls[0].cache, "layer")  # blocks of few tokens are PyTorch's
        )

    def __call__(self, x: torch.Tensor, angles: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """x [1, num_tokens, hidden] after all layers, or of the tokens that the step asks for
        [1, num_ends, hidden]; writes the step's keys and values."""
        metadata, spec, ends = self.step.metadata, self.calls[0].spec, self.step.ends
        assert metadata is not None
        host = self.backend.host_step(spec, metadata)
        last = None
        if ends is not None and _ascend(ends.indices):  # else of all tokens, and picked from them
            last = self.backend.host_step(spec, ends.metadata)
        out = x.clone(memory_format=torch.contiguous_format)
        cos, sin = angles
        v_pad = self._layers()[0].contents.v_pad
        num_slots = max(host.num_slots, 0 if last is None else last.num_slots)
        width = num_slots * spec.num_heads * (v_pad + 2)
        partial = torch.empty(width, dtype=torch.float32) if width else None
        first = self.parts[0]
        stack = Stack(
            len(self.parts),
            first.hidden,
            first.intermediate,
            ctypes.addressof(self.blocks),
            ctypes.addressof(self.layers),
        )
        one_pass = Pass(
            out.data_ptr(),
            *self.buffers.pointers(metadata.num_tokens),
            cos.data_ptr(),
            sin.data_ptr(),
            None if partial is None else partial.data_ptr(),
            *self.buffers.level_pointers(metadata.num_tokens),
            self._scratch(metadata.num_tokens),
            cos.stride(1),
        )
        if ends is not None and last is not None:
            one_pass.ends = ctypes.addressof(last.step)
            one_pass.end_tokens = ends.indices.data_ptr()
        self.run_stack(ctypes.byref(stack), ctypes.byref(host.step), ctypes.byref(one_pass))
        if ends is None:
            return out
        return out[:, : len(ends.indices)] if last is not None else out[:, ends.indices]

    def _scratch(self, num_tokens: int) -> int | None:
        """Memory for rows in 8 bits, where weights are in a GGUF file's blocks."""
        if self.quant is None:
            return None
        size = self.quant.scratch_bytes(num_tokens, max(self.buffers.widths))
        if self.rounded is None or len(self.rounded) < size:
            self.rounded = torch.empty(size, dtype=torch.uint8)
        return self.rounded.data_ptr()

    def _layers(self) -> Any:
        """Pointers to the layers' caches, made anew when the caches were."""
        current = self.calls[0].cache.layer
        if self.first_layer is not current:
            pointer = ctypes.POINTER(type(current))
            found = [ctypes.pointer(call.cache.layer) for call in self.calls]
            self.layers, self.first_layer = (pointer * len(found))(*found), current
        return self.layers


def bind_stack(model: Model) -> bool:
    """Let a bound and optimised model on the CPU run its layers as one. False: it stays."""
    stack = _make_stack(model)
    if stack is None:
        return False
    expected = list(_some_logits(model))
    give_back_freed()
    originals = _bind(stack)
    try:
        loose = torch.bfloat16 if stack.quant is not None else model.dtype
        rounds = loose == torch.float32 and stack.parts[0].rounds
        tolerance = _ROUNDED_TOLERANCE if rounds else _TOLERANCE[loose]
        equal = _equal(map(relative_errors, _some_logits(model), expected), tolerance)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        _LOG.info("CPU: the layers do not run as one: %s", error)
        equal = False
    if not equal:
        for module, original in originals:
            _restore(module, original)
    _LOG.info("CPU: %d layers run %s", len(stack.parts), "as one" if equal else "one by one")
    if equal:
        prove_ends(model, few_logits(model))
    return equal


def _some_logits(model: Model) -> Iterator[torch.Tensor]:
    """Neither of a large vocabulary nor of a step all: they are held until both ways have told
    theirs."""
    step = max(1, model.vocab_size // _LOGITS)
    every = each_logits(model, _ROWS)
    return (logits[:, ::step].clone() for logits in every)


def _ascend(indices: torch.Tensor) -> bool:
    return bool((indices[1:] > indices[:-1]).all())


def _equal(errors: Iterable[torch.Tensor], tolerance: tuple[float, float]) -> bool:
    error = torch.cat(list(errors))
    mean, largest = tolerance
    return bool(error.mean() <= mean and error.max() <= largest)  # NaN must not pass


def _make_stack(model: Model) -> LayerStack | None:
    operators = Operators.load()
    if operators is None or not isinstance(model.backend, CpuAttention):
        return None
    if len({(s.num_heads, s.num_kv_heads, s.head_dim, s.v_head_dim) for s in model.specs}) != 1:
        return None
    if any(spec.has_sinks or spec.head_dim != spec.v_head_dim for spec in model.specs):
        return None
    if not model.backend.has_kernel(model.specs[0], 16, model.dtype):
        return None
    parts = _find_layers(model)
    if not parts or len({(part.hidden, part.intermediate) for part in parts}) != 1:
        return None
    calls = [part.call for part in parts]
    if [id(call) for call in calls] != [id(call) for call in model.calls]:
        return None
    blocks = (type(parts[0].block) * len(parts))(*(part.block for part in parts))
    first, spec = parts[0], model.specs[0]
    queries = spec.num_heads * spec.head_dim
    qkv = queries + 2 * spec.num_kv_heads * spec.head_dim
    widths = (first.hidden, qkv, queries, 2 * first.intermediate, first.intermediate)
    buffers = Buffers(widths, model.dtype, operators.level_stride(max(widths)))
    run = operators.run_stack
    stack = LayerStack(parts, calls, model.backend, model.step, run, blocks, buffers)
    if any(isinstance(linear, PackedProduct) for part in parts for linear in part.held[1]):
        stack.quant = QuantKernels.load()
    return stack


def _find_layers(model: Model) -> list[LayerParts]:
    """The parts of every layer of the one list that holds them all; nothing when one is odd."""
    for module in model.module.modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(model.calls):
            found = [layer_parts(layer, model.dtype) for layer in module]
            if all(part is not None for part in found):
                return [part for part in found if part is not None]
    return []


def _bind(stack: LayerStack) -> list[tuple[Any, Any]]:
    originals = []
    for index, part in enumerate(stack.parts):
        layer: Any = part.module
        originals.append((layer, layer.__dict__.get("forward")))
        is_last = index == len(stack.parts) - 1
        forward = _ending(stack, layer.forward) if is_last else layer.forward
        layer.forward = _first(stack, forward) if index == 0 else _other(stack, forward)
    return originals


def _restore(module: Any, original: Any) -> None:
    if original is None:
        del module.forward
    else:
        module.forward = original


def _ending(stack: LayerStack, original: Callable[..., Any]) -> Callable[..., Any]:
    """The last layer, where it is run by itself, answers for the same tokens."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        out, ends = original(*args, **kwargs), stack.step.ends
        return out if ends is None else out[:, ends.indices]

    return forward


def _first(stack: LayerStack, original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        angles: Any = kwargs.get("position_embeddings")
        stack.took_over = stack.takes(hidden_states, angles)
        if not stack.took_over:
            return original(hidden_states, *args, **kwargs)
        return stack(hidden_states, angles)

    return forward


def _other(stack: LayerStack, original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if stack.took_over:
            return hidden_states
        return original(hidden_states, *args, **kwargs)

    return forward
