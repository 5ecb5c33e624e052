"""Which quantised checkpoints are served, and what each needs: read off config.json, no torch.

float8 and packed integers are batchgen's own to read (`engine.quantization`): on a GPU they stay as
they are, elsewhere they are dequantised. Of the others, those that transformers can dequantise are
ordinary weights from then on, which every fast path takes; the rest runs in the layers that its
package brings, and nothing is packed, joined or rounded further. A method that is not listed is
refused: transformers would skip some of them with a warning and take packed numbers for weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from batchgen.counts import counted
from batchgen.engine.quantization.scheme import Scheme, UnknownSchemeError, read_scheme
from batchgen.errors import ModelRefusedError, UsageError

__all__ = ["QUANTIZED_NAMES", "Quantized", "described", "read_quantized"]

_PACKAGES = {
    "mxfp4": ("accelerate",),
    "compressed-tensors": ("accelerate", "compressed-tensors"),
    "bitsandbytes": ("accelerate", "bitsandbytes"),
    "torchao": ("accelerate", "torchao"),
}
"""Method -> what has to be installed, by the names of the package index, where batchgen does not
read the weights itself."""
_ELSEWHERE = {
    "aqlm": "aqlm", "eetq": "kernels", "fp_quant": "fp_quant", "higgs": "flute-kernel",
    "hqq": "hqq", "quanto": "optimum-quanto", "sinq": "sinq", "spqr": "spqr_quant", "vptq": "vptq",
}  # fmt: skip
"""Methods that are not served -> the package by which transformers runs them."""
_OWN = (
    *("fp8", "mxfp8", "fbgemm_fp8", "modelopt", "quark", "gptq", "awq", "auto-round"),
    "compressed-tensors",
)

QUANTIZED_NAMES = (
    *(f".weight{end}" for end in ("_scale", "_scale_inv", "_packed", ".absmax")),
    *("_proj_scale_inv", "_proj_scales", "_proj_blocks", "_weight_qdata", ".qweight", ".SCB"),
)
"""How tensors end that only quantised checkpoints have."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """What a checkpoint's `quantization_config` says."""

    method: str
    rounds_activations: bool
    """Inputs of layers are rounded too, while the model runs."""
    scheme: Scheme | None = None
    """How the weights are stored, where batchgen reads them itself."""
    unserved: str = ""
    """What batchgen does not read of a method that it otherwise does."""
    kept: int = 0
    """Layers that stay quantised, of those that batchgen reads."""
    dequantized: int = 0
    """The others of them."""
    leaves_inputs: bool = False
    """Inputs are to be rounded, and are not, where its package reads the weights."""

    @property
    def is_dense(self) -> bool:
        """Whether the weights are dequantised at load."""
        if self.scheme is not None or self.kept:
            return not self.kept
        kept = self.method in ("bitsandbytes", "torchao")
        return not kept and not self.rounds_activations

    @property
    def note(self) -> str:
        """What a user should know, one sentence."""
        if self.scheme is not None:
            return self._own_note(self.scheme)
        if self.kept:
            note = f"{counted(self.kept, 'layer')} of experts in {self.method} stay so on the GPU"
            more = counted(self.dequantized, "layer")
            return f"{note}; {more} had to be dequantised" if self.dequantized else note
        if self.is_dense:
            note = f"{self.method} weights are dequantised at load: they take their full size"
            return f"{note}, and inputs are not rounded" if self.leaves_inputs else note
        if self.rounds_activations:
            return (
                f"{self.method} layers round their inputs: a near tie may fall the other way with "
                "other rows in the batch, in float32 too"
            )
        return f"{self.method} layers run as their package computes them"

    @property
    def in_package(self) -> bool:
        """Whether its package's layers run, on the device where that put them."""
        return self.scheme is None and not self.kept and not self.is_dense

    def _own_note(self, scheme: Scheme) -> str:
        note = f"{self.method} weights are dequantised at load: they take their full size"
        if self.kept:
            name = replace(scheme, others=()).name
            note = f"{counted(self.kept, 'layer')} of {name} weights stay so on the GPU"
            if scheme.kind == "float8":
                note += ", and round their inputs: a near tie may fall otherwise in another batch"
            if self.dequantized:
                note += f"; {counted(self.dequantized, 'weight')} more had to be dequantised"
        elif any(one.kind != "integer" for one in (scheme, *scheme.others)):
            note += ", and inputs are not rounded"
        return f"{note}; left out are its {scheme.left_out}" if scheme.left_out else note

    def check(self, model: str, *, quantization: str | None, deterministic: bool) -> None:
        """Raises UsageError for flags that contradict the weights, ModelRefusedError for what
        is not served or not installed."""
        self.check_served(model)
        if quantization is not None:
            raise UsageError(
                f"model {model!r} has {self.method} weights already, and --quantization "
                f"{quantization} would round them again",
                "leave --quantization out, or name the weights that are not quantised",
            )
        if deterministic and self.in_package:
            raise UsageError(
                f"--deterministic cannot hold for model {model!r}: its {self.method} layers depend "
                "on the shape of the batch",
                "leave --deterministic out, or name the weights that are not quantised",
            )
        self.check_installed(model)

    def check_served(self, model: str) -> None:
        """Raises ModelRefusedError for a method, or a variant of one, that is not served."""
        if self.unserved or (self.scheme is None and self.method not in _PACKAGES):
            own = _ELSEWHERE.get(self.method)
            raise ModelRefusedError(
                f"model {model!r} has {self.method} weights, which batchgen does not serve"
                + (f" {self.unserved}" if self.unserved else ""),
                "name the weights that are not quantised, or some in "
                f"{', '.join(dict.fromkeys((*_OWN, *_PACKAGES)))} or a .gguf file"
                + (f"; transformers runs these with the package {own}" if own else ""),
            )

    def check_installed(self, model: str) -> None:
        """Raises ModelRefusedError where the packages that read the weights are not all here."""
        needed = _PACKAGES[self.method] if self.scheme is None else ()
        missing = [name for name in needed if not _is_installed(name)]
        if missing:
            raise ModelRefusedError(
                f"model {model!r} has {self.method} weights, and {' and '.join(missing)} is not "
                "installed",
                f"pip install {' '.join(missing)}; or name the weights that are not quantised",
            )


def described(folder: Path, config: Mapping[str, Any]) -> Quantized | None:
    """What the folder says of quantised weights, in config.json or in a file of ModelOpt's own.

    Raises ModelRefusedError for a description that cannot be read, or that names no method.
    """
    beside, found = folder / "hf_quant_config.json", dict(config)
    try:
        if not found.get("quantization_config") and beside.exists():
            told = json.loads(beside.read_text(encoding="utf-8")).get("quantization") or {}
            found["quantization_config"] = {**told, "quant_method": "modelopt"}
        return read_quantized(found)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise ModelRefusedError(
            f"model {str(folder)!r} says how its weights are quantised (quantization_config, or "
            f"{beside.name}) in a form that cannot be read: {error}",
            "fetch its .json files again, or name the weights that are not quantised",
        ) from error


def read_quantized(config: Mapping[str, Any]) -> Quantized | None:
    """What config.json says of quantised weights; None where they are ordinary.

    Raises ModelRefusedError for a `quantization_config` that names no method.
    """
    found = config.get("quantization_config")
    if found is None:
        text = config.get("text_config")
        found = text.get("quantization_config") if isinstance(text, Mapping) else None
    if not found:
        return None
    method = found.get("quant_method")
    if method is None and (found.get("load_in_8bit") or found.get("load_in_4bit")):
        method = "bitsandbytes"
    if method is None:
        raise ModelRefusedError(
            "the model's config.json has a quantization_config without a quant_method",
            "fetch the model again, or name the weights that are not quantised",
        )
    try:
        scheme = read_scheme(found)
    except UnknownSchemeError as error:
        return Quantized(str(method), False, None, str(error))
    if found.get("kv_cache_scheme") and scheme is None:
        method = f"{method} (with a KV cache scheme of its own)"
    rounds = _rounds_activations(found)
    leaves = rounds and _has_small_floats(found)  # such layers run only dequantised
    return Quantized(str(method), rounds and not leaves, scheme, leaves_inputs=leaves)


def _has_small_floats(found: Mapping[str, Any]) -> bool:
    """Whether some of compressed-tensors' weights are floats of fewer than 8 bits."""
    groups = [group for group in (found.get("config_groups") or {}).values() if group]
    weights = [group.get("weights") or {} for group in groups]
    return any(one.get("type") == "float" and one.get("num_bits", 8) < 8 for one in weights)


def _rounds_activations(found: Mapping[str, Any]) -> bool:
    if found.get("quant_method") == "compressed-tensors":
        return any(
            group.get("input_activations") or group.get("output_activations")
            for group in (found.get("config_groups") or {}).values()
            if group
        )
    names = " ".join(_strings(found.get("quant_type")))  # torchao's own config, or its old name
    return bool(found.get("load_in_8bit")) or "activation" in names.lower()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _is_installed(name: str) -> bool:
    return find_spec(name.replace("-", "_")) is not None
