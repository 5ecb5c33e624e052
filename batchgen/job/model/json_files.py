"""A model folder's small JSON files, each read at most once. Nothing here reads weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError

__all__ = ["ModelJson"]


class ModelJson:
    """`read` gives a file's object, or {} where it does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, dict[str, Any]] = {}
        self._added: dict[str, int] | None = None

    def read(self, name: str) -> dict[str, Any]:
        """The JSON object in `name`. Raises ModelRefusedError where the file is damaged."""
        if name not in self._read:
            self._read[name] = _load(self.folder / name)
        return self._read[name]

    def token_id(self, token: str) -> int | None:
        """The id of a token by its text: added tokens first, then the vocabulary files."""
        if self._added is None:
            self._added = self._added_tokens()
        if token in self._added:
            return self._added[token]
        found = self._vocabulary().get(token)
        return found if isinstance(found, int) else None

    def _added_tokens(self) -> dict[str, int]:
        added: dict[str, int] = {}
        for entry in self.read("tokenizer.json").get("added_tokens") or ():
            added[entry["content"]] = entry["id"]
        added.update(self.read("added_tokens.json"))
        decoder = self.read("tokenizer_config.json").get("added_tokens_decoder") or {}
        for token_id, entry in decoder.items():
            added[entry["content"] if isinstance(entry, dict) else str(entry)] = int(token_id)
        return added

    def _vocabulary(self) -> dict[str, Any]:
        """Token -> id of the base vocabulary. Unigram lists are indexed by position."""
        vocab = (self.read("tokenizer.json").get("model") or {}).get("vocab")
        if isinstance(vocab, list):
            return {entry[0]: index for index, entry in enumerate(vocab)}
        return vocab if isinstance(vocab, dict) else self.read("vocab.json")


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, OSError) as error:
        raise ModelRefusedError(
            f"{path}: cannot be read: {error}.", "Fetch the model's files again."
        ) from error
    if not isinstance(loaded, dict):
        raise ModelRefusedError(f"{path}: holds no JSON object.", "Fetch the model's files again.")
    return loaded
