"""Which models can be served at all: decoders without a state of their own beside attention's."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from batchgen.errors import ModelRefusedError

__all__ = ["ask_for_logits_alone", "check_config", "check_decoder", "own_generation"]

_STATELESS = frozenset({"attention", "full_attention", "sliding_attention", "mlp", "moe"})
"""Kinds of layers that keep nothing, or only attention's keys and values."""
_GENERATING = ("generate", "_get_logits_processor", "_sample")
"""Methods of transformers' GenerationMixin that decide which tokens are taken."""
_EXTRAS = ("output_attentions", "output_hidden_states", "output_router_logits")
"""Of a config: what a forward is to give beside logits."""


def check_decoder(module: nn.Module) -> None:
    """Raises ModelRefusedError, before anything runs, for what no packed row can serve."""
    config: Any = module.config
    # The text half of a larger model has a config that is mapped to nothing; its class is.
    check_config(config, type(module).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if _keeps_state(module):
        raise _refused(config, "it keeps state outside attention (recurrent or convolutional)")
    if any(type(part).__name__.endswith("Indexer") for part in module.modules()):
        raise _refused(config, "its sparse attention picks keys by a key cache of its own")
    if "position_ids" not in inspect.signature(module.forward).parameters:
        raise _refused(config, "its forward takes no position_ids")


def ask_for_logits_alone(module: nn.Module) -> None:
    """In place. What training wanted beside them is read by nobody here; transformers looks for it
    in modules that are swapped, and would keep all of it to a step's end."""
    configs: list[Any] = [getattr(part, "config", None) for part in module.modules()]
    for config in configs:
        for name in _EXTRAS:
            if getattr(config, name, False):
                setattr(config, name, False)


def _keeps_state(module: Any) -> bool:
    """transformers marks a class, also where a config has none of the layers that it means: those
    of Granite 4.0 without Mamba. That these do not is proven with all others."""
    kinds: Any = getattr(module.config.get_text_config(), "layer_types", None)
    stateless = bool(kinds) and _STATELESS.issuperset(kinds)
    return getattr(module, "_is_stateful", False) and not stateless


def check_config(config: Any, mapped: bool = False) -> None:
    """Raises ModelRefusedError for what is no decoder, also where transformers would load an
    encoder-decoder's half. `mapped`: its class is one of a causal language model."""
    if config.is_encoder_decoder or getattr(type(config), "is_encoder_decoder", False):
        raise _refused(config, "it is an encoder-decoder")
    mapped = mapped or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map")
    if not mapped:
        raise _refused(config, "transformers has no causal language model of this type")


def own_generation(module: nn.Module) -> list[str]:
    """What to say of a model whose code, such as the `custom_generate` of its folder, takes tokens
    in a way of its own: one sentence, or none."""
    own = [name for name in _GENERATING if _is_own(module, name)]
    if not own:
        return []
    return [f"the model's own {', '.join(own)} is not used: tokens are taken as of any decoder"]


def _is_own(module: nn.Module, name: str) -> bool:
    if name in vars(module):
        return True
    owner = next((kind for kind in type(module).__mro__ if name in vars(kind)), None)
    return owner is not None and not owner.__module__.startswith("transformers.generation")


def _refused(config: Any, what: str) -> ModelRefusedError:
    return ModelRefusedError(
        f"model type {config.model_type!r} cannot be served: {what}",
        "batchgen serves decoder-only models whose only state is attention's KV cache",
    )
