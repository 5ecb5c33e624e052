"""Whether a model can be split over so many devices: from its config, before a process starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig

from batchgen.engine.config import EngineConfig
from batchgen.errors import ModelRefusedError, UsageError

__all__ = ["check_flags", "check_splitting", "rank_device", "split_arguments"]

_HEADS = ("num_attention_heads", "num_key_value_heads")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value")


def check_splitting(config: EngineConfig, device: torch.device) -> None:
    """Raises UsageError or ModelRefusedError for what cannot be split over several devices."""
    check_flags(config)
    _check_devices(device, config.tensor_parallel)
    own = AutoConfig.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
    _check_plan(own, config.tensor_parallel)


def check_flags(config: EngineConfig) -> None:
    """Raises UsageError for what does not go together with several devices a model."""
    size = config.tensor_parallel
    if config.model.is_file():
        raise _not_with(size, "a .gguf file", "name the model's transformers folder or hub id")
    if config.adapters:
        raise _not_with(size, "--adapter", "merge the adapter into the model's folder (peft)")
    if config.quantization not in (None, "none"):
        raise _not_with(size, f"--quantization {config.quantization}", "leave one of them out")
    if config.deterministic:
        what = "--deterministic: sums over several devices depend on the step"
        raise _not_with(size, what, "leave one of them out")


def _not_with(size: int, what: str, hint: str) -> UsageError:
    return UsageError(f"--tensor-parallel {size} does not go with {what}", hint)


def _check_devices(device: torch.device, size: int) -> None:
    """Raises UsageError where there are not `size` devices from `device` on."""
    if device.type == "cpu":
        if torch.cuda.is_available():
            raise UsageError(
                f"--tensor-parallel {size} on the CPU: transformers splits over GPUs where it sees "
                "them",
                "hide them: CUDA_VISIBLE_DEVICES= batchgen ...",
            )
        return
    first, there = device.index or 0, torch.cuda.device_count()
    if first + size > there:
        raise UsageError(
            f"--tensor-parallel {size} from cuda:{first} on needs {first + size} GPUs, and torch "
            f"sees {there}",
            f"ask for --tensor-parallel {max(1, there - first)} or less; look at nvidia-smi and "
            "CUDA_VISIBLE_DEVICES",
        )


def rank_device(device: torch.device, rank: int) -> torch.device:
    """Where a rank runs: its neighbours' GPUs are the next ones."""
    return device if device.type == "cpu" else torch.device("cuda", (device.index or 0) + rank)


def _check_plan(own: Any, size: int) -> None:
    """`own` is the model's config. Raises ModelRefusedError where transformers has no plan for its
    layers, or heads do not divide."""
    text = own.get_text_config()
    plan: Mapping[str, str] = getattr(text, "base_model_tp_plan", None) or {}
    if not any(".*." in name or name.startswith("layers") for name in plan):
        raise _refused(own, size, "transformers has no tensor-parallel plan for its layers")
    shares_heads = any(
        name.rpartition(".")[2] in _PROJECTIONS and style == "colwise"
        for name, style in plan.items()
    )
    for name in _HEADS if shares_heads else ():
        counts = getattr(text, name, None) or []
        for count in [counts] if isinstance(counts, int) else counts:
            if count % size:
                raise _refused(own, size, f"its {name} = {count} does not divide by {size}")


def _refused(own: Any, size: int, why: str) -> ModelRefusedError:
    return ModelRefusedError(
        f"model type {own.model_type!r} cannot be split over {size} devices: {why}",
        "leave --tensor-parallel out, or take another number of devices or another model",
    )


@contextmanager
def split_arguments(size: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """What `from_pretrained` is told, so that it reads this rank's slices alone, straight to
    `device`, whose number it takes from LOCAL_RANK."""
    from transformers.distributed.configuration_utils import DistributedConfig

    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    try:
        yield {"distributed_config": DistributedConfig(tp_size=size)}
    finally:
        os.environ.pop("LOCAL_RANK")
        if before is not None:
            os.environ["LOCAL_RANK"] = before
