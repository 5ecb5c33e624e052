"""The LoRA adapters of a job: their names, their files, and what tells one from another. No torch.

One adapter is part of the model: every row uses it. Of several, each row names its own
(`adapter`), and a row without one uses the base model alone, as does one that names `base`; given
as an `--adapter` of its own, `base` says that one adapter is to be chosen by rows too.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batchgen.causes import first_line
from batchgen.errors import ModelRefusedError, UsageError
from batchgen.job.model.safetensors_header import read_tensors
from batchgen.lora_config import CONFIG_NAME, WEIGHT_NAMES, LoraConfig, read_lora_config

__all__ = ["BASE", "AdapterFiles", "find_adapters", "parse_adapters", "tell_other_bases"]

BASE = "base"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = (CONFIG_NAME, "adapter_model*.safetensors")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter on this machine. `is_merged`: it is part of the model, no row chooses it."""

    name: str
    config: LoraConfig
    weights: Path
    is_merged: bool

    def identity(self) -> str:
        """Digest of its files, whole."""
        digest = hashlib.sha256()
        for path in (self.config.folder / CONFIG_NAME, self.weights):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:32]


def parse_adapters(texts: Sequence[str]) -> dict[str, str]:
    """Name -> folder or hub id of each `--adapter`, `NAME=DIR` or DIR, whose last part is the name;
    `base` -> "". UsageError for a name that is none, or that is there twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, ref = (BASE, "") if text == BASE else _split(text)
        if name in found:
            hint = "give each a name of its own: --adapter NAME=DIR"
            raise UsageError(f"two adapters have the name {name!r}", hint)
        if not _NAME.fullmatch(name) or (name == BASE and ref):
            hint = "write --adapter NAME=DIR, the name in letters, digits, '.', '_' and '-'"
            raise UsageError(f"--adapter {text!r}: {name!r} is no name for an adapter", hint)
        found[name] = ref
    return found


def _split(text: str) -> tuple[str, str]:
    name, equals, ref = text.partition("=")
    if equals and ref and not Path(text).expanduser().is_dir():
        return name, ref
    return Path(text).expanduser().name or Path(text).resolve().name, text


def find_adapters(texts: Sequence[str], allow_pickle: bool = False) -> tuple[AdapterFiles, ...]:
    """The adapters of `--adapter`, their configs read. ModelRefusedError names what is missing, or
    cannot be applied as it was trained."""
    named = parse_adapters(texts)
    return tuple(
        _files(name, ref, allow_pickle, is_merged=len(named) == 1)
        for name, ref in named.items()
        if name != BASE
    )


def tell_other_bases(adapters: Sequence[AdapterFiles], model: str) -> None:
    """Say which were trained on a model of another name: that may be a copy, or a mistake."""
    for adapter in adapters:
        base = adapter.config.base
        if base and Path(base).name.lower() != Path(model).name.lower():
            text = "adapter %s was trained on %s, and the model is %s: is that the same one?"
            _log.warning(text, adapter.name, base, model)


def _files(name: str, ref: str, allow_pickle: bool, *, is_merged: bool) -> AdapterFiles:
    folder = _folder(ref)
    config = read_lora_config(folder)
    safe, pickle = (folder / file for file in WEIGHT_NAMES)
    if not safe.is_file() and pickle.is_file() and not allow_pickle:
        raise ModelRefusedError(
            f"adapter {ref}: its weights are in a pickle ({pickle.name}), which can run code",
            "convert it to safetensors; or, if you trust its author, add --allow-pickle",
        )
    weights = safe if safe.is_file() else pickle
    if not weights.is_file():
        text = f"adapter {ref}: {WEIGHT_NAMES[0]} is not there"
        raise ModelRefusedError(text, "fetch the adapter again, whole")
    if weights == safe:
        deque(read_tensors(safe), maxlen=0)  # a damaged one is told before the model is loaded
    return AdapterFiles(name, config, weights, is_merged)


def _folder(ref: str) -> Path:
    path = Path(ref).expanduser()
    if path.is_dir():
        return path
    if ref.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(ref):
        text = f"adapter not found: {ref} is no folder"
        raise ModelRefusedError(text, f"name a folder with {CONFIG_NAME}, or a hub id")
    return _from_hub(ref)


def _from_hub(ref: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(ref, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelRefusedError(
            f"adapter {ref}: no such folder, and not fetched from the hub: {first_line(error)}",
            "check the name, the network and HF_TOKEN, or name a local folder",
        ) from error
