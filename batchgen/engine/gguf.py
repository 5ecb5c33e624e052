"""A `.gguf` file as a transformers model: weights dequantised, special tokens from the file itself.

transformers' loader takes some special tokens from the architecture's defaults (SmolLM2's eos came
out as another id than the file says), so they are read from the header and set here.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from batchgen.errors import ModelRefusedError

__all__ = ["load_gguf", "read_integers"]

OWN_DTYPES = {0: torch.float32, 1: torch.float16, 32: torch.bfloat16}
"""`general.file_type` of files that are not quantised; all others come out as bfloat16."""
SPECIAL_TOKENS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
INTEGERS = "BbHhIiQq"
STRING, ARRAY = 8, 9
KEYS_START = 8  # after the magic and the version


def load_gguf(path: Path, dtype: torch.dtype | str) -> Any:
    """Load the file through transformers; `auto` is the file's own dtype."""
    fields = read_integers(path)
    if dtype == "auto":
        dtype = OWN_DTYPES.get(fields.get("general.file_type", -1), torch.bfloat16)
    with redirect_stderr(StringIO()):  # its progress bar heeds no setting
        module = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, attn_implementation="eager", **_dense()
        )
    for name, key in SPECIAL_TOKENS.items():
        for holder in (module.config, module.generation_config):
            setattr(holder, name, fields.get(key))
    return module


def read_integers(path: Path) -> dict[str, int]:
    """The header's integers by key. Raises ModelRefusedError for what is no GGUF file."""
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                raise ModelRefusedError(f"model {str(path)!r} is not a GGUF file")
            return dict(_walk(data))
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise ModelRefusedError(
            f"model {str(path)!r} has a damaged GGUF header: {error}", "fetch the file again"
        ) from error


def _dense() -> dict[str, Any]:
    """Ask for dequantised weights where transformers would leave them packed (5.23 does)."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _walk(data: mmap) -> Iterator[tuple[str, int]]:
    _, num_keys = struct.unpack_from("<QQ", data, KEYS_START)
    at = KEYS_START + 16
    for _ in range(num_keys):
        end = _skip_string(data, at)
        key = data[at + 8 : end].decode()
        (kind,) = struct.unpack_from("<I", data, end)
        at = end + 4
        if SCALARS.get(kind, "f") in INTEGERS:
            yield key, struct.unpack_from("<" + SCALARS[kind], data, at)[0]
        at = _skip(data, at, kind)


def _skip(data: mmap, at: int, kind: int) -> int:
    """Where the value of `kind` that starts at `at` ends."""
    if kind == STRING:
        return _skip_string(data, at)
    if kind != ARRAY:
        return at + struct.calcsize(_scalar(kind))
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner not in (STRING, ARRAY):
        return at + int(count) * struct.calcsize(_scalar(inner))
    for _ in range(count):
        at = _skip(data, at, inner)
    return at


def _skip_string(data: mmap, at: int) -> int:
    (length,) = struct.unpack_from("<Q", data, at)
    return at + 8 + int(length)


def _scalar(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"unknown value type {kind}")
    return "<" + SCALARS[kind]
