"""Which token ids end a sequence, begin one, or pad it: from every place a model's files name them.

transformers' own defaults for a missing value are not taken: an id that no file names ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from batchgen.gguf.tokenizer.special import end_ids, named_id
from batchgen.job.model.json_files import ModelJson

__all__ = ["SpecialTokens", "from_folder", "from_gguf"]

_END_KEYS = ("eos_token", "eot_token")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids as the model's files name them. `eos_token_ids`: each one ends a sequence."""

    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None


def from_folder(files: ModelJson) -> SpecialTokens:
    """Read generation_config, config (and its text_config), and the tokenizer's own files."""
    configs = _configs(files)
    ends = [*_config_ids(configs, "eos_token_id"), *_named_ids(files, _END_KEYS)]
    begins = [*_config_ids(configs, "bos_token_id"), *_named_ids(files, ("bos_token",))]
    return SpecialTokens(tuple(dict.fromkeys(ends)), begins[0] if begins else None)


def from_gguf(metadata: dict[str, Any]) -> SpecialTokens:
    """As llama.cpp gathers them: the ids that the file names, and known ends in the vocabulary."""
    return SpecialTokens(end_ids(metadata), named_id(metadata, "bos"))


def _configs(files: ModelJson) -> list[dict[str, Any]]:
    """Most specific first: what is read from the front of this list wins for bos."""
    config = files.read("config.json")
    nested = [config[name] for name in ("text_config", "decoder") if name in config]
    return [
        files.read("generation_config.json"),
        config,
        *(c for c in nested if isinstance(c, dict)),
    ]


def _config_ids(configs: Iterable[dict[str, Any]], key: str) -> list[int]:
    return list(_ids(config.get(key) for config in configs))


def _named_ids(files: ModelJson, keys: tuple[str, ...]) -> list[int]:
    """Ids of the tokens that the tokenizer's files give these names."""
    found = []
    for source in _tokenizer_maps(files):
        for key in keys:
            token = source.get(key)
            text = token.get("content") if isinstance(token, dict) else token
            token_id = files.token_id(text) if isinstance(text, str) else None
            if token_id is not None:
                found.append(token_id)
    return found


def _tokenizer_maps(files: ModelJson) -> Iterator[dict[str, Any]]:
    config = files.read("tokenizer_config.json")
    yield config
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        yield extra
    yield files.read("special_tokens_map.json")


def _ids(values: Iterable[Any]) -> Iterator[int]:
    """Flatten ints and lists of ints; anything else (null, text, true, negative) names no token."""
    for value in values:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int) and not isinstance(item, bool) and item >= 0:
                yield item
