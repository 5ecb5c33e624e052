"""A model's folder as a transformers module, whole, on its device; or refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from batchgen.counts import counted
from batchgen.engine.checkpoint.package_parts import check_parts
from batchgen.engine.checkpoint.packed_folder import load_packed, load_packed_experts
from batchgen.engine.checkpoint.quantized import Quantized, described
from batchgen.engine.checkpoint.quiet import quietly
from batchgen.engine.checkpoint.unread import check_types, check_unread
from batchgen.engine.config import EngineConfig
from batchgen.engine.parallel.splitting import split_arguments
from batchgen.errors import ModelRefusedError

__all__ = ["load_folder"]

_DENSE_CONFIGS = {
    "mxfp4": "Mxfp4Config",
    "compressed-tensors": "CompressedTensorsConfig",
}
"""Whose `dequantize=True` makes ordinary weights of the checkpoint's."""


def load_folder(
    own: Any, dtype: torch.dtype | str, config: EngineConfig, device: torch.device
) -> tuple[Any, Quantized | None]:
    """The module in `config.model`, whose config is `own`, and how its weights were quantised.

    Raises ModelRefusedError, naming what is missing or off; UsageError for flags that contradict
    the weights.
    """
    path = config.model
    quantized = described(path, own.to_dict())
    if config.tensor_parallel > 1:
        if quantized is not None:
            raise ModelRefusedError(
                f"model {str(path)!r} has {quantized.method} weights, which are not split over "
                "several devices",
                "leave --tensor-parallel out, or name the weights that are not quantised",
            )
        with split_arguments(config.tensor_parallel, device) as more:
            return _load(path, own, dtype, config, more), None
    if quantized is None:
        check_types(path)
        return _load(path, own, dtype, config, {}), None
    quantized.check(str(path), quantization=config.quantization, deterministic=config.deterministic)
    return _load_kept(own, dtype, config, device, quantized) or _load_by_package(
        own, dtype, config, device, quantized
    )


def _load_kept(
    own: Any,
    dtype: torch.dtype | str,
    config: EngineConfig,
    device: torch.device,
    quantized: Quantized,
) -> tuple[Any, Quantized] | None:
    """Read by batchgen itself, weights staying packed where they can; None where it cannot."""
    path, is_plain = config.model, not (config.deterministic or config.adapters)
    given: dict[str, Any] = {
        "trust_remote_code": config.trust_remote_code,
        "check": lambda module, info: _check_info(path, module, info),
    }
    if quantized.scheme is not None:
        return load_packed(path, own, quantized, dtype, device, keep=is_plain, **given)
    if quantized.method == "mxfp4" and is_plain:
        return load_packed_experts(path, own, quantized, dtype, device, **given)
    return None


def _load_by_package(
    own: Any,
    dtype: torch.dtype | str,
    config: EngineConfig,
    device: torch.device,
    quantized: Quantized,
) -> tuple[Any, Quantized]:
    """By transformers, and the package that it asks."""
    path, said = config.model, list[str]()
    if config.load_format != "dummy":
        check_parts(path, quantized.method)
    try:
        with quietly(said):
            module = _load(path, own, dtype, config, _arguments(quantized, device))
            if quantized.method == "compressed-tensors" and quantized.is_dense:
                _keep_nothing_apart(module)
    except (ImportError, RuntimeError, ValueError, NotImplementedError) as error:
        raise ModelRefusedError(
            f"model {str(path)!r} has {quantized.method} weights that cannot be loaded on "
            f"{device.type}: {_cause(error, said)}",
            "install what is named, take another device, or name the weights that are not "
            "quantised",
        ) from error
    return module, quantized


def _arguments(quantized: Quantized, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told of quantised weights."""
    if not quantized.is_dense:
        return {"device_map": {"": device}}  # else some packages choose a GPU where there is one
    make = getattr(transformers, _DENSE_CONFIGS[quantized.method])
    return {"quantization_config": make(dequantize=True)}


def _keep_nothing_apart(module: Any) -> None:
    """Undo what compressed-tensors may leave behind (seen under transformers 5.17): modules that
    fetch their weights from the host at each call, and would return there whatever is moved."""
    from compressed_tensors.offload import remove_dispatch

    remove_dispatch(module)


def _load(
    path: Path, own: Any, dtype: torch.dtype | str, config: EngineConfig, more: dict[str, Any]
) -> Any:
    load: Any = AutoModelForCausalLM.from_pretrained
    module, info = load(
        path,
        config=own,
        dtype=dtype,
        attn_implementation="eager",
        trust_remote_code=config.trust_remote_code,
        use_safetensors=None if config.allow_pickle else True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are named below, and refused
        **more,
    )
    _check_info(path, module, info)
    return module


def _check_info(path: Path, module: Any, info: Mapping[str, Any]) -> None:
    """Raises ModelRefusedError where what transformers loaded is not the whole model."""
    if info["mismatched_keys"]:
        name, found, expected = min(info["mismatched_keys"])
        weights = counted(len(info["mismatched_keys"]), "weight")
        raise ModelRefusedError(
            f"model {str(path)!r} has {weights} of other shapes than its "
            f"config.json says, the first is {name!r}: {[*found]}, not {[*expected]}",
            "the checkpoint is of another architecture; fetch it again",
        )
    check_unread(path, module, info["unexpected_keys"])
    missing = sorted(info["missing_keys"])
    if missing:
        weights = counted(len(missing), "weight")
        raise ModelRefusedError(
            f"model {str(path)!r} lacks {weights}, the first is {missing[0]!r}",
            "the checkpoint is incomplete or of another architecture; fetch it again",
        )


def _cause(error: Exception, said: list[str]) -> str:
    """The first error that transformers logged, where its own only points at the log."""
    if "above report" in str(error):
        found = re.search(r"^(?:\w+\.)*\w+Error: .+", "".join(said), re.MULTILINE)
        if found is not None:
            return found.group().strip()
    return f"{type(error).__name__}: {error}"
