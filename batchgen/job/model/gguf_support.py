"""What loading a `.gguf` file takes, checked before anything heavy is imported.

The weights are read by transformers, which needs two packages more for it and knows some of
llama.cpp's architectures.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError

__all__ = ["check_loadable", "check_tokenizer"]

_PACKAGES = {"gguf": "gguf>=0.10", "accelerate": "accelerate>=1.1"}
_NOT_ARCHITECTURES = {"general", "tokenizer"}
_NAME_THE_FOLDER = "name the model's transformers folder or hub id instead of the .gguf file"


def check_tokenizer(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raises ModelRefusedError where the file holds no vocabulary to make prompts with."""
    if metadata.get("tokenizer.ggml.model") and metadata.get("tokenizer.ggml.tokens"):
        return
    raise ModelRefusedError(
        f"{path}: the file holds no tokenizer (tokenizer.ggml.model and tokenizer.ggml.tokens)",
        f"convert it again without --vocab-only or --no-vocab, or {_NAME_THE_FOLDER}",
    )


def check_loadable(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raises ModelRefusedError where a package is missing, or transformers cannot read the file's
    architecture."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        named = " and ".join(missing)
        wanted = " ".join(f"'{_PACKAGES[name]}'" for name in missing)
        raise ModelRefusedError(
            f"{path}: to load .gguf files takes {named}, not installed here",
            f"pip install {wanted}",
        )
    architecture = str(metadata.get("general.architecture", "?"))
    known = _known_architectures()
    if known and _plain(architecture) not in map(_plain, known):
        raise ModelRefusedError(
            f"{path}: transformers {_transformers_version()} cannot load .gguf files of the "
            f"architecture {architecture!r}; it can: {', '.join(sorted(known))}",
            _NAME_THE_FOLDER,
        )


def _plain(architecture: str) -> str:
    """llama.cpp writes `qwen3moe` and `gpt-oss` where transformers writes `_`."""
    return architecture.replace("-", "").replace("_", "")


@cache
def _known_architectures() -> frozenset[str]:
    """The keys of transformers' own table, read off its source: importing it takes seconds.

    Empty where the table is not found there: then loading will tell.
    """
    try:
        spec = find_spec("transformers")
        places = (spec.submodule_search_locations or []) if spec is not None else []
        source = (Path(next(iter(places))) / "integrations" / "ggml.py").read_text("utf-8")
        tree = ast.parse(source)
    except (OSError, StopIteration, SyntaxError):
        return frozenset()
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if names == ["GGUF_CONFIG_MAPPING"]:
                keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
                return frozenset(map(str, keys)) - _NOT_ARCHITECTURES
    return frozenset()


def _transformers_version() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return "?"
