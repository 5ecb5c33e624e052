"""Columns of pictures, sounds and films beside a text: no model reads them here, and an answer to
the text alone is none to what was asked. So a row that has some is an error, unless somebody said
that the column is only carried along, or which columns make the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

__all__ = ["is_media_type", "media_columns"]

_KINDS = ("image", "img", "picture", "photo", "audio", "video")
_ENDINGS = ("", "s", "_url", "_urls", "_path", "_paths", "_file", "_files", "_base64", "_bytes")
_NAMES = frozenset(kind + ending for kind in _KINDS for ending in _ENDINGS) | {
    *("input_audio", "input_image", "pixel_values", "jpg", "jpeg", "png", "webp", "wav", "mp3"),
    *("flac", "mp4"),
}
"""Of training tools, Ollama, processors of transformers, and files in WebDataset's archives."""
_FILE = re.compile(
    r"(data:(image|audio|video)/|https?://).*|[^\n]*\.(avif|bmp|gif|heic|jpe?g|png|svg|tiff?|webp"
    r"|aac|flac|m4a|mp3|ogg|opus|wav|avi|mkv|mov|mp4|mpe?g|webm)",
    re.IGNORECASE | re.DOTALL,
)
_DATA = ("data:image/", "data:audio/", "data:video/")
_CARRIED = ("_url", "_path", "_file")
"""Ends of names under which catalogues carry one address along: it is said, and is no error."""
_PLAIN = ("builtins", "datetime", "decimal", "uuid")
"""Modules of the types that rows of files have."""
_ENCODED_CHARS = 200
"""From so many on, a word without a space is a file's bytes in base64."""
_FILE_FIELDS = {"bytes", "path"}
"""Of `datasets`' Image, Audio and Video."""


def media_columns(raw: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The columns of a row that hold some, or are named as if they did: and whether they do."""
    for name, value in raw.items():
        if name in _NAMES:
            if isinstance(value, str) and name.endswith(_CARRIED) and not value.startswith(_DATA):
                if value:
                    yield name, False
            elif _is_media(value):
                yield name, True
            elif value and name.rstrip("s") in _KINDS:
                yield name, False
        elif type(value) is str and value[:5] == "data:" and value.startswith(_DATA):
            yield name, True


def is_media_type(name: str, kind: pa.DataType) -> bool:
    """Whether all values of a column are such files, whatever a row holds."""
    if name in _NAMES and _is_bytes(kind):
        return True
    if pa.types.is_struct(kind):
        inner = {kind.field(i).name: kind.field(i).type for i in range(len(kind))}
        is_file = inner.keys() == _FILE_FIELDS and _is_bytes(inner["bytes"])
        return is_file or any(is_media_type(field, one) for field, one in inner.items())
    value = getattr(kind, "value_type", None) or getattr(kind, "item_type", None)
    return isinstance(value, pa.DataType) and is_media_type(name, value)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _is_media(value: Any) -> bool:
    if isinstance(value, str):
        is_encoded = len(value) >= _ENCODED_CHARS and " " not in value[:_ENCODED_CHARS]
        return is_encoded or _FILE.fullmatch(value.strip()) is not None
    if isinstance(value, Mapping):
        return any(_is_media(one) for one in value.values())
    if isinstance(value, list | tuple):
        return any(map(_is_media, value)) or bool(value and type(value[0]) in (list, int, float))
    if isinstance(value, bytes):
        return bool(value)
    return type(value).__module__ not in _PLAIN  # a picture as a library has it
