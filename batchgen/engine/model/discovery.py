"""What attention a model does: found by one tiny forward with a recording attention function.

Nothing is configured by model type. The forward runs on a clone that shares the weights, so that
whatever the model remembers of it stays in the clone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from batchgen.engine.attention.interface import AttentionSpec
from batchgen.engine.failures import is_out_of_memory
from batchgen.engine.model.binding import CALL_ATTRIBUTE, use_attention
from batchgen.engine.model.finite import not_finite
from batchgen.engine.model.windows import MaskShape, probe_mask
from batchgen.errors import ModelRefusedError

__all__ = ["CallSite", "Discovery", "clone_module", "discover"]

DISCOVERY_NAME = "batchgen-discovery"
RECORDER_ATTRIBUTE = "batchgen_recorder"
SHAPE_ATTRIBUTE = "batchgen_shape"
NUM_TOKENS = 5
POISONED = 2
HARMLESS = frozenset({"s_aux", "position_ids", "cache_position"})
"""Tensors that attention may be handed: sinks are served, positions change nothing."""
PROBED_POSITIONS = 1 << 17
"""Windows are looked for up to here, or up to the model's own length if that is less."""


@dataclass(frozen=True, slots=True)
class CallSite:
    """One attention call: the submodule that makes it, and its shape."""

    module_name: str
    spec: AttentionSpec


@dataclass(frozen=True, slots=True)
class Discovery:
    """All attention calls of a model's forward, in order. `exact_length`: the tokens a sequence may
    have for the specs to describe the model's masks; None = no limit seen."""

    model_type: str
    vocab_size: int
    calls: tuple[CallSite, ...]
    exact_length: int | None

    @property
    def specs(self) -> tuple[AttentionSpec, ...]:
        """The specs alone."""
        return tuple(call.spec for call in self.calls)


class _Refusal(Exception):
    """Why a call cannot be served; `discover` adds the model's name."""


class _Recorder:
    """Collects the calls of one forward."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self.names = names
        self.calls: list[CallSite] = []
        self.exact_lengths: list[int] = []

    def record(self, module: nn.Module, call: dict[str, Any]) -> None:
        mask = _mask_shape(module, call["mask"], call["kwargs"])
        if mask.exact_length is not None:
            self.exact_lengths.append(mask.exact_length)
        spec = _spec(len(self.calls), call, mask.window)
        self.calls.append(CallSite(self.names[module], spec))

    def check(self) -> None:
        """After the forward: there was attention."""
        if not self.calls:
            raise _Refusal("its attention does not go through transformers' AttentionInterface")


def discover(module: nn.Module, model_type: str, vocab_size: int) -> Discovery:
    """Run the tiny forward. Raises ModelRefusedError for attention that cannot be paged exactly,
    and for state outside attention."""
    clone, recorder = _recorded(module)
    try:
        logits = _tiny_forward(clone, vocab_size, poisoned=True)
        recorder.check()
        _check_apart(module, model_type, logits, vocab_size)
    except ModelRefusedError:
        raise
    except _Refusal as error:
        raise ModelRefusedError(
            f"model type {model_type!r} cannot be served: {error}",
            "use a decoder that is proven; `batchgen docs models` lists the types",
        ) from None
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelRefusedError(
            f"model type {model_type!r} cannot be served: its forward failed on a packed row "
            f"({type(error).__name__}: {error})",
            "update transformers, or take a decoder that is proven: `batchgen docs models`",
        ) from error
    exact_length = min(recorder.exact_lengths, default=None)
    return Discovery(model_type, vocab_size, tuple(recorder.calls), exact_length)


def _recorded(module: nn.Module) -> tuple[Any, _Recorder]:
    """A clone whose attention is recorded."""
    clone = clone_module(module)
    recorder = _Recorder({part: name for name, part in clone.named_modules()})
    for part in clone.modules():
        setattr(part, RECORDER_ATTRIBUTE, recorder)
    use_attention(clone, DISCOVERY_NAME)
    return clone, recorder


@torch.no_grad()
def _tiny_forward(clone: Any, vocab_size: int, *, poisoned: bool) -> torch.Tensor:
    """Logits [num_tokens, vocab_size]. `poisoned`: a token's embedding is NaN. Whatever carries it
    to another token, however faintly, is state outside attention, since attention stays with its
    own token here."""

    def poison(_: nn.Module, __: Any, embedded: torch.Tensor) -> torch.Tensor:
        embedded = embedded.clone()
        embedded[:, POISONED] = torch.nan
        return embedded

    if poisoned:
        clone.get_input_embeddings().register_forward_hook(poison)
    tokens = torch.arange(NUM_TOKENS, device=next(clone.parameters()).device)[None]
    output = clone(input_ids=tokens % vocab_size, position_ids=tokens, use_cache=False)
    logits: torch.Tensor = output.logits[0]
    return logits


def _check_apart(
    module: nn.Module, model_type: str, poisoned: torch.Tensor, vocab_size: int
) -> None:
    """The poisoned token kept to itself. Where others are not finite, they may be so by nature: a
    new clone, which remembers nothing of the poison, tells."""
    clean = torch.isfinite(poisoned).all(dim=-1)
    clean[POISONED] = True
    if clean.all():
        return
    clone, _ = _recorded(module)
    if torch.isfinite(_tiny_forward(clone, vocab_size, poisoned=False)).all():
        raise _Refusal("it keeps state outside attention (recurrent or convolutional)")
    raise not_finite(module, model_type)


def clone_module(module: nn.Module) -> Any:
    """A copy with its own buffers, config and attributes that shares every parameter."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in module.parameters()}
    memo |= {id(getattr(part, CALL_ATTRIBUTE, None)): None for part in module.modules()}
    memo |= {id(tensor): tensor for part in module.modules() for tensor in _outside(part)}
    return copy.deepcopy(module, memo)


def _outside(part: nn.Module) -> list[torch.Tensor]:
    """Weights that are no parameters: bitsandbytes moves an 8-bit layer's into its `state`."""
    held: dict[str, Any] = getattr(getattr(part, "state", None), "__dict__", {})
    return [value for value in held.values() if isinstance(value, torch.Tensor)]


def _record(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Stands in for attention in the tiny forward: every token sees itself alone."""
    call: dict[str, Any] = {"query": query, "key": key, "value": value, "mask": attention_mask}
    call |= {"scaling": scaling, "kwargs": kwargs}
    getattr(module, RECORDER_ATTRIBUTE).record(module, call)
    groups = query.shape[1] // value.shape[1]
    return value.repeat_interleave(groups, dim=1).transpose(1, 2).contiguous(), None


def _spec(index: int, call: dict[str, Any], window: int | None) -> AttentionSpec:
    query, key, value = call["query"], call["key"], call["value"]
    for name, argument in call["kwargs"].items():
        if isinstance(argument, torch.Tensor) and name not in HARMLESS:
            raise _Refusal(f"it hands attention a tensor that is not understood ({name})")
    if query.shape[0] != 1 or not query.shape[2] == key.shape[2] == value.shape[2] == NUM_TOKENS:
        raise _Refusal("it has attention whose keys are not the tokens of its own sequence")
    if not query.numel() or not value.numel():
        raise _Refusal("it has attention without heads")
    scale = call["scaling"]
    return AttentionSpec(
        index=index,
        num_heads=query.shape[1],
        num_kv_heads=key.shape[1],
        head_dim=query.shape[3],
        v_head_dim=value.shape[3],
        scale=float(scale) if scale is not None else query.shape[3] ** -0.5,
        sliding_window=window,
        softcap=call["kwargs"].get("softcap"),
        has_sinks=call["kwargs"].get("s_aux") is not None,
    )


def _mask_shape(module: nn.Module, mask: torch.Tensor | None, kwargs: dict[str, Any]) -> MaskShape:
    """The mask's own word, which is what eager attention obeys; the arguments', if it has none."""
    if mask is not None:
        base = mask if hasattr(mask, SHAPE_ATTRIBUTE) else mask._base
        shape: MaskShape | None = getattr(base, SHAPE_ATTRIBUTE, None)
        if shape is not None:
            return shape
        if not _looks_causal(mask):
            raise _Refusal("it adds a mask of its own to the attention scores")
    elif not kwargs.get("is_causal", getattr(module, "is_causal", True)):
        raise _Refusal("its attention is bidirectional")
    return MaskShape(window=kwargs.get("sliding_window"))


def _looks_causal(mask: torch.Tensor) -> bool:
    """Whether a mask that the model built itself says no more than: not the future."""
    if mask.shape[-2:] != (NUM_TOKENS, NUM_TOKENS):
        return False
    visible = mask if mask.dtype == torch.bool else mask == 0
    causal = torch.ones(NUM_TOKENS, NUM_TOKENS, dtype=torch.bool, device=mask.device).tril()
    return bool((visible == causal).all())


def _record_mask(
    *,
    q_length: int = NUM_TOKENS,
    mask_function: Callable[..., torch.Tensor],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    config: Any = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Stands in for the mask: a causal one, which carries the shape of what it stands for."""
    length = getattr(config, "max_position_embeddings", None) or PROBED_POSITIONS
    with torch.device("cpu"):
        shape = probe_mask(mask_function, min(length, PROBED_POSITIONS), device)
    if shape is None:
        raise _Refusal("its mask is neither causal nor a sliding window")
    hidden = torch.ones(q_length, q_length, dtype=torch.bool, device=device).triu(1)
    mask = torch.zeros(1, 1, q_length, q_length, dtype=dtype, device=device)
    mask.masked_fill_(hidden, torch.finfo(dtype).min)
    setattr(mask, SHAPE_ATTRIBUTE, shape)
    return mask


AttentionInterface.register(DISCOVERY_NAME, _record)
AttentionMaskInterface.register(DISCOVERY_NAME, _record_mask)
