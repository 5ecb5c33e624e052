"""Why a model could not be loaded, in one line, and what to do about it.

transformers, safetensors and torch raise errors of many kinds, often over many lines.
"""

from __future__ import annotations

import errno
from pathlib import Path

import transformers

from batchgen.engine.failures import is_out_of_memory
from batchgen.errors import ModelRefusedError

__all__ = ["load_failure", "no_memory"]

_MAX_REASON = 300
_UNKNOWN_TYPE = ("does not recognize this architecture", "Unrecognized model")


def load_failure(path: Path, error: Exception) -> ModelRefusedError:
    """The error to raise in the place of one that transformers raised."""
    if "trust_remote_code" in str(error):
        return ModelRefusedError(
            f"model {str(path)!r} runs Python code that came with it",
            "read that code; if you trust it, add --trust-remote-code",
        )
    if is_out_of_memory(error) or getattr(error, "errno", None) == errno.ENOMEM:
        return no_memory(path, error)
    text = f"model {str(path)!r} cannot be loaded: {type(error).__name__}: {_first_words(error)}"
    return ModelRefusedError(text, _hint(path, error))


def no_memory(path: Path, error: Exception) -> ModelRefusedError:
    """The model alone, without a row, is too large for its device."""
    return ModelRefusedError(
        f"model {str(path)!r} does not fit into memory: {_first_words(error)}",
        "free memory there (another process may hold it), lower --gpu-memory-utilization, or take "
        "a --dtype of fewer bits, a smaller model or another --device",
    )


def _hint(path: Path, error: Exception) -> str:
    text = str(error)
    if any(words in text for words in _UNKNOWN_TYPE):
        installed = f"transformers {transformers.__version__}"
        return f"{installed} does not know its model_type: update it, or take another model"
    if isinstance(error, ImportError):
        return "install the package that is named"
    if "GGUF model with architecture" in text:
        return "name the model's transformers folder or hub id instead of the .gguf file"
    if isinstance(error, FileNotFoundError) or "no file named" in text:
        return "the folder lacks weights: fetch all of its files again"
    if type(error).__name__ == "SafetensorError" or path.is_file():
        return "the file is damaged or was cut off: fetch it again"
    if "ValidationError" in type(error).__name__:
        return "correct its config.json, or fetch it again"
    return (
        "fetch its files again; if they are whole, see whether transformers "
        f"{transformers.__version__} alone can load it"
    )


def _first_words(error: Exception) -> str:
    """The first paragraph, on one line."""
    paragraph = str(error).strip().partition("\n\n")[0]
    words = " ".join(paragraph.split())
    return words if len(words) <= _MAX_REASON else words[:_MAX_REASON] + "..."
