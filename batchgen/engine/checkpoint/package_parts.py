"""Whether the tensors are there that a quantised weight is read with, where a package reads it.

Some packages take no notice: bitsandbytes serves weights whose scales of scales are missing, and
wrong tokens come out. Only the headers of safetensors files are read.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    for weight, part in _needed(types, method):
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
        elif method == "bitsandbytes" and name.endswith(".weight") and kind == "I8":
            yield name, f"{name.removesuffix('.weight')}.SCB"
        elif method == "compressed-tensors" and name.endswith(".weight_packed"):
            yield name, f"{name.removesuffix('_packed')}_scale"
