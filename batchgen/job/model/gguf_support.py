"""What loading a `.gguf` file takes, checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError
from batchgen.gguf.architectures.plan import plan_gguf
from batchgen.gguf.parts import GgufFile, read_gguf
from batchgen.gguf.tokenizer.build import check_vocabulary

__all__ = ["check_loadable", "check_package", "check_tokenizer"]

_PACKAGE = "gguf>=0.10"
_PLAIN_KINDS = (0, 1, 28, 30)
"""ggml's float32, float16, float64 and bfloat16: read without the package."""
_NAME_THE_FOLDER = "name the model's transformers folder or hub id instead of the .gguf file"


def check_tokenizer(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raises ModelRefusedError where the file holds no vocabulary to make prompts with."""
    if metadata.get("tokenizer.ggml.model") and metadata.get("tokenizer.ggml.tokens"):
        return
    raise ModelRefusedError(
        f"{path}: the file holds no tokenizer (tokenizer.ggml.model and tokenizer.ggml.tokens)",
        f"convert it again without --vocab-only or --no-vocab, or {_NAME_THE_FOLDER}",
    )


def check_loadable(path: Path) -> None:
    """Raises ModelRefusedError where a package is missing, or the file says what is not applied."""
    file = read_gguf(path)
    check_package(file)
    plan_gguf(file)
    check_vocabulary(file.metadata, path)


def check_package(file: GgufFile) -> None:
    """Raises ModelRefusedError where the weights need a package that is not installed."""
    quantised = any(info.kind not in _PLAIN_KINDS for info in file.tensors.values())
    if quantised and find_spec("gguf") is None:
        raise ModelRefusedError(
            f"{file.path}: to load quantised .gguf files takes gguf, not installed here",
            f"pip install '{_PACKAGE}'",
        )
