"""Which files of a model's folder hold its weights, as transformers chooses them. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from batchgen.errors import ModelRefusedError

__all__ = ["INDEX", "PICKLES", "indexed_names", "weight_files"]

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth")
"""How files end that may hold weights, and code."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files: one for the whole before those of an index, which need not be there;
    without either, what looks like them. Raises ModelRefusedError for an index that is none."""
    whole = folder / "model.safetensors"
    if whole.exists():
        return [whole]
    return (
        [folder / name for name in indexed_names(folder)]
        or sorted(folder.glob("model*.safetensors"))
        or sorted(folder.glob("*.safetensors"))
    )


def indexed_names(folder: Path) -> list[str]:
    """Files that the index of sharded weights names, in order; none without one. Raises
    ModelRefusedError."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return sorted({str(file) for file in index["weight_map"].values()})
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefusedError(
            f"{folder / INDEX} cannot be read: {error!r}",
            "Fetch all of the model's files again, or name the folder that holds them.",
        ) from error
