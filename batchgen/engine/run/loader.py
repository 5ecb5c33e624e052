"""From a folder or a `.gguf` file to a proven `Model`: load, discover, bind, prove; or refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from batchgen.engine.adapters.attach import AttachedAdapters, attach_adapters
from batchgen.engine.attention.interface import AttentionBackend
from batchgen.engine.attention.select import select_backend
from batchgen.engine.checkpoint.folder import load_folder
from batchgen.engine.checkpoint.load_failures import load_failure
from batchgen.engine.checkpoint.placement import place
from batchgen.engine.checkpoint.quantized import Quantized
from batchgen.engine.checkpoint.quiet import quietly
from batchgen.engine.checkpoint.random_weights import load_random
from batchgen.engine.checkpoint.rounding import round_module, settle_quantization
from batchgen.engine.config import CPU_ROUNDINGS, PROOF_BLOCK_SIZE, EngineConfig
from batchgen.engine.cpu.stack import bind_stack
from batchgen.engine.device import resolve_device
from batchgen.engine.last_layer.binding import bind_last_layer, pays_alone
from batchgen.engine.memory import freed_at_once, give_back_freed, give_back_loaded
from batchgen.engine.model.binding import use_attention
from batchgen.engine.model.decoders import (
    ask_for_logits_alone,
    check_config,
    check_decoder,
    own_generation,
)
from batchgen.engine.model.discovery import Discovery, discover
from batchgen.engine.model.float8_cache import check_kv_cache_dtype, round_cache
from batchgen.engine.model.limits import Limits, find_limits
from batchgen.engine.model.model import Model, bind_model
from batchgen.engine.model.proof import (
    check_copies,
    check_same,
    confirm,
    first_logits,
    is_quantized,
    prove,
)
from batchgen.engine.model.proof_logits import LENGTHS, own_logits
from batchgen.engine.parallel.group import Group
from batchgen.engine.quantization.proof import has_quantized, settle_layers
from batchgen.engine.run.optimizing import optimizer_of
from batchgen.engine.steady.checks import backend_of, check_parts, check_settings, prove_steady
from batchgen.engine.weights import weigh
from batchgen.errors import ModelRefusedError, UsageError
from batchgen.gguf.weights_kept import PACKED
from batchgen.startup import timeline
from batchgen.startup.kernels import wait_for_kernels
from batchgen.startup.lazy_modules import META, or_whole, wake

__all__ = ["load_model", "load_model_from"]

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def load_model(config: EngineConfig, group: Group | None = None) -> Model:
    """Load and prove the model, or this rank's part of it. Raises ModelRefusedError before any row
    is touched."""
    device = resolve_device(config.device)
    with freed_at_once() if device.type == "cpu" else nullcontext():
        return _load_proven(config, device, group)


def _load_proven(config: EngineConfig, device: torch.device, group: Group | None) -> Model:
    config = settle_quantization(config, device)
    check_kv_cache_dtype(config, device)
    if config.deterministic:
        check_settings(config)
    loaded = _loaded(config, device, in_parts=group is not None)
    with quietly() if loaded.in_package else nullcontext():
        model = load_model_from(
            loaded.module,
            backend_of(config, device),
            max_model_len=config.max_model_len,
            optimize=optimizer_of(config, device),
            group=group,
            confirmed=config.quantization not in CPU_ROUNDINGS,
            rounded_cache=config.kv_cache_dtype != "auto",
        )
    model.notes += loaded.notes
    if config.deterministic:
        model.ends_alone = False  # a prompt's last token would be summed as one that decodes
    if loaded.adapters is not None:
        with timeline.span("adapters"):
            in_graphs = device.type == "cuda" and not config.enforce_eager
            loaded.adapters.settle(model, in_graphs=in_graphs)
    if config.deterministic:
        with timeline.span("steady"):
            check_parts(model, config.block_size or PROOF_BLOCK_SIZE)
            if device.type == "cpu":
                model.notes.append(prove_steady(model))  # on a GPU, once layers are compiled
    return model


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A module with the weights that it is to compute with, not proven yet. `in_package`: another
    package computes its quantised layers. `notes`: what a user should read."""

    module: Any
    in_package: bool
    adapters: AttachedAdapters | None
    notes: list[str]


def _loaded(config: EngineConfig, device: torch.device, *, in_parts: bool) -> _Loaded:
    """`in_parts`: transformers has brought this rank's slices to the device already."""
    with timeline.span("weights"):
        module, quantized = _load_module(config, device)
        in_package = quantized is not None and quantized.in_package
        notes = [] if quantized is None else [quantized.note]
        if not config.adapters:
            notes += round_module(module, config, device)
        module = module if in_package or in_parts else place(module, device)
    with timeline.span("adapters"):
        adapters = _attach(module, config)
    if config.adapters:  # merged into the weights as they were
        notes += round_module(module, config, device)
    if has_quantized(module):
        with timeline.span("quantised layers"):
            notes += settle_layers(module)
    return _Loaded(module, in_package, adapters, notes)


def _attach(module: Any, config: EngineConfig) -> AttachedAdapters | None:
    """Before anything is bound or packed. None: there is none, or it is part of the weights now."""
    if not config.adapters:
        return None
    if config.chooses_adapters and config.quantization in CPU_ROUNDINGS:
        text = f"--quantization {config.quantization} and several adapters are both given"
        raise UsageError(text, "leave one of the two out; a single adapter is merged")
    module = module.eval().requires_grad_(False)
    check_decoder(module)
    return attach_adapters(module, config)


def load_model_from(
    module: Any,
    backend: AttentionBackend | None = None,
    *,
    max_model_len: int | None = None,
    optimize: Callable[[Any], object] | None = None,
    confirmed: bool = True,
    rounded_cache: bool = False,
    group: Group | None = None,
) -> Model:
    """Discover, prove and bind a loaded causal LM, on the device where it lies.

    `optimize` swaps parts of the proven module for faster ones; `confirmed`: the whole is compared
    once more after it. `rounded_cache`: keys and values in float8, once all is proven. `group`:
    transformers has split the module over these ranks.
    """
    module = module.eval().requires_grad_(False)
    check_decoder(module)
    ask_for_logits_alone(module)
    backend = backend or select_backend(next(module.parameters()).device)
    input_vocab_size: int = module.get_input_embeddings().weight.shape[0]
    found, limits, expected = _proven(module, backend, max_model_len, in_parts=group is not None)
    weights = weigh(module)
    if optimize:
        use_attention(module, "eager")
        with _stage("optimize"):
            optimize(module)
    model = bind_model(module, found, backend, limits.max_position)
    stacked = False
    if optimize and model.device.type == "cpu":
        with _stage("stack"):
            stacked = bind_stack(model)
    if group is None and not stacked and pays_alone(model.device, weights, len(found.specs)):
        with _stage("last layer"):
            bind_last_layer(model)
    if optimize and confirmed:
        with _stage("confirm"):
            confirm(model, expected)
    if rounded_cache:
        with timeline.span("rounded cache"):
            round_cache(model)
    model.group = group
    model.max_num_tokens = limits.max_num_tokens
    model.weights = weights
    model.input_vocab_size = input_vocab_size
    model.cautions += [*limits.notes, *own_generation(module)]
    del expected
    give_back_loaded(model.device)
    return model


def _proven(
    module: Any, backend: AttentionBackend, max_model_len: int | None, *, in_parts: bool
) -> tuple[Discovery, Limits, list[torch.Tensor]]:
    """What attention the module does, up to which length it is exact, and its own logits of the
    proof, which it has passed. `in_parts`: transformers' wrappers are to come off first."""
    model_type: str = module.config.model_type
    vocab_size: int = module.get_output_embeddings().weight.shape[0]
    with _stage("own logits"):
        first = first_logits(module, vocab_size) if is_quantized(module) else None
    if in_parts:
        with timeline.span("split"):
            _make_local(module, vocab_size)
    with _stage("discover"):
        found = discover(module, model_type, vocab_size)
    give_back_loaded(module.device)
    limits = find_limits(module, found)
    limits.check(model_type, max_model_len, max(LENGTHS))
    wait_for_kernels()
    with _stage("proof"):
        expected = prove(module, found, backend, limits.max_position)
        if first is not None:
            check_copies(module, expected, first)
        del first
    return found, limits, expected


@contextmanager
def _stage(name: str) -> Iterator[None]:
    """A span at whose end the system gets back what was freed: each stage of a load needs logits
    and activations of its own, and a process's peak is not to be their sum."""
    with timeline.span(name):
        yield
    give_back_freed()


def _make_local(module: Any, vocab_size: int) -> None:
    """Take transformers' wrappers off, and compare: they are the word on how a model is split."""
    from batchgen.engine.parallel.split_model import make_local  # with torch's DTensor and SymPy

    before = own_logits(module, vocab_size, copied=False)
    make_local(module)
    check_same(module, own_logits(module, vocab_size), before, "split over several devices")


def _resolve_dtype(name: str) -> torch.dtype | str:
    """A torch dtype, or `auto` for the checkpoint's own."""
    if name == "auto":
        return name
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}", f"use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _load_module(config: EngineConfig, device: torch.device) -> tuple[Any, Quantized | None]:
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    path = config.model
    if not path.exists():
        raise UsageError(f"model {str(path)!r} is not there", "name a folder or a .gguf file")
    dtype = _resolve_dtype(config.dtype)
    try:
        if path.is_file():
            from batchgen.engine.checkpoint.gguf import load_gguf

            packed = config.quantization == PACKED
            return or_whole(lambda: load_gguf(path, dtype, packed=packed)), None
        return _load_folder(path, dtype, config, device)
    except (UsageError, ModelRefusedError):
        raise
    except Exception as error:
        raise load_failure(path, error) from error


def _load_folder(
    path: Path, dtype: torch.dtype | str, config: EngineConfig, device: torch.device
) -> tuple[Any, Quantized | None]:
    wake(META)
    own = AutoConfig.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    check_config(own)
    if config.load_format == "dummy":
        return load_random(own, dtype, config, device), None
    return load_folder(own, dtype, config, device)
