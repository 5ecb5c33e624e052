"""Whether a model's folder holds all that loading it takes, told before anything heavy is begun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchgen.engine.checkpoint.weight_files import (
    INDEX,
    PICKLES,
    indexed_names,
    weight_files,
)
from batchgen.errors import ModelRefusedError
from batchgen.job.model.safetensors_header import read_tensors

__all__ = ["check_folder"]

_TOKENIZERS = (
    *("tokenizer.json", "tokenizer_config.json", "tekken.json"),
    *("*.model", "*.tiktoken", "*.spm", "vocab.*"),
)
_WEIGHTS = ("*.safetensors", *(f"*{end}" for end in PICKLES))
_AGAIN = "Fetch all of the model's files again, or name the folder that holds them."


def check_folder(folder: Path, name: str, config: dict[str, Any]) -> None:
    """Raises ModelRefusedError with everything that is missing."""
    missing = list(_missing(folder, config))
    if missing:
        raise ModelRefusedError(f"Model {name} is not whole: {'; '.join(missing)}.", _AGAIN)
    for path in weight_files(folder):
        for _ in read_tensors(path):  # which refuses what is cut off
            pass


def _missing(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    if not config.get("model_type"):
        yield f"config.json names no model_type ({len(config)} settings)"
    if not _any(folder, _TOKENIZERS):
        yield "no tokenizer (tokenizer.json, tokenizer.model)"
    if not _any(folder, _WEIGHTS):
        yield "no weights (model.safetensors)"
    absent = [file for file in indexed_names(folder) if not (folder / file).exists()]
    if absent:
        yield f"{len(absent)} of the files that {INDEX} names are not there ({absent[0]})"


def _any(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)
