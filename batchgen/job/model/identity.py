"""What tells one model from another, for the fingerprint: cheap, and independent of where it lies.

Small files are hashed whole. Of a weight file: name, size, header, and 4 KiB at 16 places, so that
a fine-tune of the same shape differs. A 16 GB model costs a few hundred kilobytes of reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from batchgen.engine.checkpoint.weight_files import PICKLES

__all__ = ["code_identity", "files_identity", "folder_identity", "text_digest"]

_CONFIGS = ("config.json", "generation_config.json")
_MODEL_CONFIGS = (_CONFIGS[0], "hf_quant_config.json")  # ModelOpt's, beside the other
_WEIGHTS = (".safetensors", ".gguf", *PICKLES)
_TOKENIZER_NAMES = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "spiece.model")
_SAMPLES = 16
_SAMPLE_BYTES = 4096
_MAX_HEADER_BYTES = 64 << 20


def text_digest(text: str | None) -> str:
    """Short digest of a text; `none` for None."""
    return "none" if text is None else hashlib.sha256(text.encode()).hexdigest()[:32]


def folder_identity(folder: Path) -> dict[str, str]:
    """Digests of a model folder's config, generation config, tokenizer and weights."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    tokenizer = [path for path in files if _is_tokenizer(path.name)]
    weights = [path for path in files if path.suffix in _WEIGHTS]
    index = [path for path in files if path.name.endswith(".index.json")]
    return {
        "config": _digest_files([path for path in files if path.name in _MODEL_CONFIGS]),
        "generation_config": _digest_files([path for path in files if path.name == _CONFIGS[1]]),
        "tokenizer": _digest_files(tokenizer),
        "weights": _join([_file_identity(path) for path in weights] + [_digest_files(index)]),
    }


def code_identity(folder: Path) -> str:
    """Digest of the Python files that came with a model, in folders of the folder too; `none`
    where there are none."""
    code = sorted(folder.rglob("*.py"))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in code]
    names = [path.relative_to(folder).as_posix() for path in code]
    return _join([f"{name}:{digest}" for name, digest in zip(names, digests, strict=True)])


def _file_identity(path: Path) -> str:
    """Digest of a weight file's name, size, header and samples of its content."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{path.name}\0{size}\0".encode())
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little") if path.suffix == ".safetensors" else 0
        file.seek(0)
        digest.update(file.read(min(8 + header, _MAX_HEADER_BYTES)))
        for sample in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def files_identity(paths: Sequence[Path]) -> str:
    """Digest of one file, or of the parts of a model that are there."""
    if len(paths) == 1:
        return _file_identity(paths[0])
    return _join([_file_identity(path) for path in paths if path.is_file()])


def _is_tokenizer(name: str) -> bool:
    return name.startswith(("tokenizer", "tekken", "special_tokens")) or name in _TOKENIZER_NAMES


def _digest_files(paths: list[Path]) -> str:
    return _join([f"{path.name}:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths])


def _join(parts: list[str]) -> str:
    return text_digest("\n".join(parts)) if parts else "none"
