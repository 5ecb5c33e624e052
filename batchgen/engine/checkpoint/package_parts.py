"""Whether the tensors are there that a quantised weight is read with, where a package reads it.

Some packages take no notice: bitsandbytes serves weights whose scales of scales are missing, and
wrong tokens come out. Only the headers of safetensors files are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from batchgen.engine.checkpoint.packed_folder import open_tensors
from batchgen.engine.checkpoint.weight_files import weight_files
from batchgen.errors import ModelRefusedError

__all__ = ["check_parts"]

_STATE = ".quant_state.bitsandbytes__"
_NESTED = (".nested_absmax", ".nested_quant_map")


def check_parts(folder: Path, method: str) -> None:
    """Raises ModelRefusedError that names the first weight which lacks something."""
    if not weight_files(folder):
        return
    with ExitStack() as files:
        tensors = open_tensors(folder, files)
        types = {name: tensor.get_dtype() for name, tensor in tensors.items()}
    needed = _told(folder) if method == "torchao" else _needed(types, method)
    for weight, part in needed:
        older = part.replace("._weight_", ".weight:")
        if older != part and older in types:
            continue
        if part not in types:
            raise ModelRefusedError(
                f"model {str(folder)!r} has the {method} weight {weight!r} without {part!r}",
                "the checkpoint is incomplete; fetch all of its files again",
            )


def _needed(types: dict[str, str], method: str) -> Iterator[tuple[str, str]]:
    """Weights, and the parts that each needs. `types`: the format's name of each tensor's."""
    for name, kind in types.items():
        weight, is_state, _ = name.partition(_STATE)
        if method == "bitsandbytes" and is_state:
            nested = _NESTED if types.get(f"{weight}.absmax") == "U8" else ()
            for end in ("", ".absmax", ".quant_map", *nested):
                yield weight, weight + end
        elif method == "bitsandbytes" and name.endswith(".weight.absmax"):
            weight = name.removesuffix(".absmax")
            if not any(one.startswith(weight + _STATE) for one in types):
                yield weight, f"{weight}.quant_state"
        elif method == "bitsandbytes" and name.endswith(".weight") and kind == "I8":
            yield name, f"{name.removesuffix('.weight')}.SCB"
        elif method == "bitsandbytes" and name.endswith(".SCB"):
            weight = f"{name.removesuffix('.SCB')}.weight"
            yield weight, weight
        elif method == "compressed-tensors" and name.endswith(".weight_packed"):
            yield name, f"{name.removesuffix('_packed')}_scale"


def _told(folder: Path) -> Iterator[tuple[str, str]]:
    """The same of torchao, whose files say in their metadata what each weight is made of."""
    from safetensors import safe_open

    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
        for weight, text in metadata.items():
            front, _, last = weight.rpartition(".")
            try:
                parts = json.loads(text).get("_tensor_data_names") or ()
            except (ValueError, AttributeError):
                continue  # of something else
            yield from ((weight, f"{front}._{last}_{part}") for part in parts)
