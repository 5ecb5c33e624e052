"""Generated bad rows: sound rows of every format with values, keys, text and bytes spoilt."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

__all__ = ["bad_line", "nasty_value"]

_CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
_SOUND: tuple[dict[str, Any], ...] = (
    {"id": "a", "prompt": "a prompt", "params": {"max_tokens": 4, "temperature": 0.5}},
    {"id": 7, "messages": _CHAT, "top_p": 0.9, "stop": ["x"]},
    {"prompt_token_ids": [104, 105], "seed": 3, "note": {"kept": [1, 2]}},
    {
        "custom_id": "c", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "echo", "messages": _CHAT, "max_tokens": 4},
    },
    {
        "custom_id": "d", "method": "POST", "url": "/v1/completions",
        "body": {"prompt": "text", "n": 2, "temperature": 1.0, "logprobs": 1},
    },
)  # fmt: skip
_KEYS = (
    "id", "custom_id", "prompt", "messages", "prompt_token_ids", "params", "max_tokens", "n",
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "min_tokens",
    "logprobs", "ignore_eos", "repetition_penalty", "presence_penalty", "frequency_penalty", "role",
    "content", "url", "method", "body", "model", "stream", "max_completion_tokens", "unheard_of",
    "index", "status", "completion", "", "\x00", "\u202e", "a" * 300, "logit_bias", "tools",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 1025, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 0.0, -0.0,
    -1e-300, 0.5, 1.5, 1e308, float("inf"), float("nan"), "", " ", "0", "1", "text", "null", "\x00",
    "\ud800", "\udfff\ud800", "\u2028", "\ufeff", "e\u0301" * 50, "\U0001f600" * 20, "x" * 5000,
    "{{ 7 * 7 }}", "{% for i in range(9) %}", "<|im_end|>", "../../etc/passwd", [], {}, [None],
    [[]], [{}], [1, "a"], ["", "x"], [-1], [2**40], {"a": {"b": None}}, {"role": "user"},
    [{"role": "user"}], [{"role": "user", "content": None}], [{"role": 5, "content": "x"}],
    [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], [_CHAT], _CHAT[0],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}],
)  # fmt: skip
_DEPTHS = (20, 200, 900, 5000, 60_000)


def nasty_value(chosen: random.Random) -> Any:
    """Some value that a row should not have, or just may."""
    if chosen.random() < 0.02:
        value: Any = "deep"
        for _ in range(chosen.choice(_DEPTHS[:3])):
            value = [value] if chosen.random() < 0.5 else {"k": value}
        return value
    return copy.deepcopy(chosen.choice(_VALUES))


def bad_line(chosen: random.Random) -> bytes:
    """One line (no newline in it): usually wrong in one to three ways, sometimes sound."""
    row = copy.deepcopy(chosen.choice(_SOUND))
    for key in ("id", "custom_id"):
        if key in row and chosen.random() < 0.9:  # else a duplicate
            row[key] = f"{key}-{chosen.getrandbits(40)}"
    for _ in range(chosen.randint(0, 3)):
        _spoil(row, chosen)
    text = json.dumps(row, ensure_ascii=chosen.random() < 0.5)
    data = text.encode(errors="surrogatepass")
    if chosen.random() < 0.4:
        data = chosen.choice(_BYTE_CHANGES)(data, chosen)
    return data.replace(b"\n", b" ")


def _spoil(row: dict[str, Any], chosen: random.Random) -> None:
    """One change somewhere in the row, at any depth."""
    place: Any = row
    while chosen.random() < 0.6:
        inner = [v for v in _children(place) if isinstance(v, dict | list) and v]
        if not inner:
            break
        place = chosen.choice(inner)
    if isinstance(place, list):
        place[chosen.randrange(len(place))] = nasty_value(chosen)
    elif place and chosen.random() < 0.6:
        place[chosen.choice(list(place))] = nasty_value(chosen)
    elif place and chosen.random() < 0.4:
        del place[chosen.choice(list(place))]
    else:
        place[chosen.choice(_KEYS)] = nasty_value(chosen)


def _children(place: Any) -> list[Any]:
    return list(place.values()) if isinstance(place, dict) else list(place)


def _flip(data: bytes, chosen: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chosen.randint(1, 4)):
        changed[chosen.randrange(len(changed))] = chosen.randrange(256)
    return bytes(changed)


def _cut(data: bytes, chosen: random.Random) -> bytes:
    return data[: chosen.randrange(len(data))]


def _insert(data: bytes, chosen: random.Random) -> bytes:
    at = chosen.randrange(len(data))
    return data[:at] + chosen.randbytes(chosen.randint(1, 30)) + data[at:]


def _twice(data: bytes, chosen: random.Random) -> bytes:
    start = chosen.randrange(len(data))
    stop = chosen.randint(start, len(data))
    return data[:stop] + data[start:]


def _noise(data: bytes, chosen: random.Random) -> bytes:
    return chosen.randbytes(chosen.randint(0, 200))


def _deep(data: bytes, chosen: random.Random) -> bytes:
    depth = chosen.choice(_DEPTHS)
    return b'{"prompt": ' + chosen.choice([b"[", b'{"a":']) * depth


def _number(data: bytes, chosen: random.Random) -> bytes:
    number = chosen.choice([b"1e400", b"-1e400", b"9" * 5000, b"0x10", b"01", b"1.", b"-", b"1e"])
    return b'{"prompt": "p", "temperature": ' + number + b"}"


def _repeated_key(data: bytes, chosen: random.Random) -> bytes:
    return data[:-1] + b', "prompt": "again", "prompt": ' + chosen.choice([b"1}", b'"b"}'])


_BYTE_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _flip, _cut, _insert, _twice, _noise, _deep, _number, _repeated_key,
)  # fmt: skip
