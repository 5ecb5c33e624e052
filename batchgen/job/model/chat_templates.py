"""The chat templates that come with a model, by name; `default` is the one for any chat.

As transformers 5 reads a folder: where chat_template.jinja or the folder additional_chat_templates
are there, they count alone; else tokenizer_config.json, which may hold one template or a list of
named ones. A GGUF file has named ones beside its own, as llama.cpp reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError
from batchgen.job.model.json_files import ModelJson

__all__ = ["DEFAULT", "TOOL_USE", "folder_templates", "gguf_templates"]

DEFAULT, TOOL_USE = "default", "tool_use"
"""`tool_use` is taken, where a model has it, for a chat with tools."""
_FOLDER = "additional_chat_templates"
_KEY = "tokenizer.chat_template"


def folder_templates(files: ModelJson) -> dict[str, str]:
    """Name -> template. Raises ModelRefusedError for a file that cannot be read."""
    own = files.folder / "chat_template.jinja"
    found = {DEFAULT: _text(own)} if own.is_file() else {}
    for path in sorted((files.folder / _FOLDER).glob("*.jinja")):
        found[path.stem] = _text(path)
    for name in () if found else ("chat_template.json", "tokenizer_config.json"):
        found = _named(files.read(name).get("chat_template"))
        if found:
            return found
    return found


def gguf_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Name -> template."""
    found = _named(metadata.get(_KEY))
    for key, value in metadata.items():
        if key.startswith(f"{_KEY}.") and isinstance(value, str):
            found.setdefault(key.removeprefix(f"{_KEY}."), value)
    return found


def _named(value: Any) -> dict[str, str]:
    """One template, a list of named ones, or an object of them."""
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list):
        value = {entry["name"]: entry["template"] for entry in value if isinstance(entry, Mapping)}
    return dict(value) if isinstance(value, Mapping) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        text = f"{path}: cannot be read: {error}."
        raise ModelRefusedError(text, "Fetch the model's files again.") from error
