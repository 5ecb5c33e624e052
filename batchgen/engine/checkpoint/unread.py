"""What a folder's weights hold that the model does not take: told, or refused where it would change
answers. transformers leaves all of it out, with a word that nobody sees."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from batchgen.counts import counted
from batchgen.engine.checkpoint.packed_folder import open_tensors
from batchgen.engine.checkpoint.quantized import QUANTIZED_NAMES
from batchgen.engine.checkpoint.weight_files import weight_files
from batchgen.engine.quantization.stored import StoredTensor
from batchgen.errors import ModelRefusedError

__all__ = ["check_types", "check_unread"]

_logger = logging.getLogger(__name__)
_NO_WEIGHTS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")
_DESCRIPTIONS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_UNMERGED = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B", ".base_layer.")
_HARMLESS = ("inv_freq", "_scale")
"""Ends of what a model computes itself, and of scales for inputs and caches in 8 bits, which the
weights do not need."""


def check_types(path: Path) -> None:
    """Raises ModelRefusedError, before weights are read, for a layer's weight in integers in a
    folder that describes no quantised weights: they would be taken for the weight itself."""
    if not weight_files(path):
        return
    with ExitStack() as files:
        for name, tensor in sorted(open_tensors(path, files).items()):
            if name.endswith(".weight") and tensor.get_dtype() in _NO_WEIGHTS:
                raise _undescribed(path, f"{name!r} in {tensor.get_dtype()}")


def check_unread(path: Path, module: Any, unexpected: Iterable[str]) -> None:
    """`unexpected`: what transformers did not read, by its names. Raises ModelRefusedError for
    quantised weights, an adapter's, and a bias that is not zero; warns of the rest of a layer."""
    names = sorted(name for name in unexpected if not name.endswith("inv_freq"))
    packed = next((name for name in names if name.endswith(QUANTIZED_NAMES)), None)
    if packed is not None:
        raise _undescribed(path, repr(packed))
    unmerged = next((name for name in names if any(part in name for part in _UNMERGED)), None)
    if unmerged is not None:
        raise ModelRefusedError(
            f"model {str(path)!r} holds an adapter that is not merged, as {unmerged!r}",
            "merge it (PeftModel.merge_and_unload) and save the model, or give it as --adapter",
        )
    with ExitStack() as files:
        biases = _biases(path, module, names, files)
        for name, stored in biases.items():
            if bool(stored[...].any()):
                raise ModelRefusedError(
                    f"model {str(path)!r} has a bias that its config.json knows nothing of, "
                    f"{name!r}",
                    "correct config.json (attention_bias, mlp_bias and the like), or fetch the "
                    "model again",
                )
    left = [name for name in names if name not in biases and not name.endswith(_HARMLESS)]
    of_layers = [name for name in left if _is_of_layer(module, name)]
    if of_layers:
        _logger.warning(
            "model %r: left unread, as its config.json asks for no such thing: %s, the first is %r",
            str(path),
            counted(len(of_layers), "tensor"),
            of_layers[0],
        )


def _biases(
    path: Path, module: Any, names: Iterable[str], files: ExitStack
) -> Mapping[str, StoredTensor]:
    """Those of `names` that layers with a weight do not have, unread. Some tools write zeros."""
    weights = {name for name, _ in module.named_parameters()}
    found = [n for n in names if n.endswith(".bias") and f"{n[:-5]}.weight" in weights]
    if not found or not weight_files(path):
        return {}
    tensors = open_tensors(path, files)
    return {name: tensors[name] for name in found if name in tensors}


def _is_of_layer(module: Any, name: str) -> bool:
    """Whether it lies in a layer of the model, or would be one more: other senses do not."""
    nearest = next((one for one in _fronts(name) if _find(module, one) is not None), "")
    in_list = any(part.isdigit() for part in nearest.split("."))
    return in_list or isinstance(_find(module, nearest), torch.nn.ModuleList)


def _fronts(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _find(module: Any, name: str) -> Any:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _undescribed(path: Path, what: str) -> ModelRefusedError:
    beside = next((name for name in _DESCRIPTIONS if (path / name).exists()), None)
    put = "" if beside is None else f"put what {beside} says there, with its quant_method; "
    return ModelRefusedError(
        f"model {str(path)!r} has quantised weights that its config.json does not describe "
        f"(quantization_config), the first is {what}",
        f"{put}fetch it again with its config.json, or name the weights that are not quantised",
    )
