"""Where a model lies: a local folder or file, the hub's cache, or the model inside the package."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from batchgen.causes import first_line
from batchgen.errors import ModelRefusedError
from batchgen.job.model.adapter import refuse_adapter

__all__ = ["BUILTIN_NAME", "ModelSource", "locate"]

BUILTIN_NAME = "batchgen-tiny"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py")
"""fnmatch's star crosses folders: additional_chat_templates/*.jinja too."""
_PICKLES = ("*.bin",)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """`path`: an existing folder or `.gguf` file. `commit`: the hub's, for a hub model."""

    path: Path
    name: str
    commit: str | None = None
    builtin: bool = False


def locate(ref: str | None, revision: str | None, allow_pickle: bool = False) -> ModelSource:
    """Find `ref`, fetching it from the hub where it is a hub id. Raises ModelRefusedError."""
    if ref is None:
        return ModelSource(_builtin_path(), BUILTIN_NAME, builtin=True)
    path = Path(ref).expanduser()
    if path.is_dir():
        refuse_adapter(path, ref)
        return ModelSource(_only_gguf(path) or path, ref)
    if path.is_file():
        return _local_file(path, ref)
    if _looks_local(ref):
        raise ModelRefusedError(
            f"Model not found: {ref} does not exist.",
            "Name a model folder (with config.json), a .gguf file or a hub id.",
        )
    return _from_hub(ref, revision, allow_pickle)


def _builtin_path() -> Path:
    path = Path(str(resources.files("batchgen") / "models" / BUILTIN_NAME))
    if not (path / "config.json").is_file():
        raise ModelRefusedError(
            f"The built-in model is missing: {path}.", "Reinstall batchgen, or name a --model."
        )
    return path


def _only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds nothing else to load."""
    if (folder / "config.json").is_file():
        return None
    from batchgen.gguf.parts import part_paths

    found = sorted(folder.glob("*.gguf"))
    if found and (len(found) == 1 or tuple(found) == part_paths(found[0])):
        return found[0]
    hint = f"It holds {len(found)} .gguf files: name one." if found else "Is the path right?"
    raise ModelRefusedError(f"{folder}: no model folder (config.json is missing).", hint)


def _local_file(path: Path, ref: str) -> ModelSource:
    if path.suffix.lower() == ".gguf":
        return ModelSource(path, ref)
    raise ModelRefusedError(
        f"{path}: a file, and not a .gguf one.", "Name the folder that holds config.json."
    )


def _looks_local(ref: str) -> bool:
    return (
        ref.startswith(("/", ".", "~"))
        or ref.endswith(("/", ".gguf"))
        or _HUB_ID.fullmatch(ref) is None
    )


def _from_hub(ref: str, revision: str | None, allow_pickle: bool) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*_HUB_FILES, *(_PICKLES if allow_pickle else ())]
    try:
        path = Path(snapshot_download(ref, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise _not_fetched(ref, revision, error) from error
    refuse_adapter(path, ref)
    if not (path / "config.json").is_file():
        raise ModelRefusedError(
            f"{ref}: the hub's copy holds no config.json.",
            "Is it a transformers model? Of a GGUF repository, fetch one file and name it.",
        )
    return ModelSource(path, ref, commit=path.name)


def _not_fetched(ref: str, revision: str | None, error: Exception) -> ModelRefusedError:
    at = f" at revision {revision}" if revision else ""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        hint = "HF_HUB_OFFLINE is set: unset it, fetch the model beforehand, or name its folder."
    else:
        hint = "Check the name, the network and HF_TOKEN (gated models), or name a local folder."
    return ModelRefusedError(
        f"Model {ref}{at}: no such local folder, and not fetched from the hub: {first_line(error)}",
        hint,
    )
