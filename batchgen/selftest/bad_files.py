"""Generated bad files: Parquet with columns of any type, and files whose bytes were damaged."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.selftest.bad_rows import bad_line, nasty_value

__all__ = ["damaged_file", "jsonl_file", "parquet_file"]

_TURN = {"role": "user", "content": "hello"}
_COLUMNS: tuple[Callable[[random.Random], Any], ...] = (
    lambda chosen: "a prompt",
    lambda chosen: chosen.choice(["a", "", None, "\x00", "{{", "x" * 3000]),
    lambda chosen: chosen.choice([None, 0, 1, -1, 2**62]),
    lambda chosen: chosen.choice([None, 0.5, -1.0, float("nan"), float("inf")]),
    lambda chosen: chosen.choice([True, False, None]),
    lambda chosen: chosen.choice([b"bytes", b"\xff\xfe", None]),
    lambda chosen: chosen.choice([["a"], [], None, ["b", None]]),
    lambda chosen: chosen.choice([[1, 2], [], None, [-5]]),
    lambda chosen: chosen.choice([[_TURN], [_TURN, _TURN], [], None, [{"role": None}]]),
    lambda chosen: chosen.choice([{"max_tokens": 3, "temperature": 0.1}, None, {"n": 0}]),
    lambda chosen: json.dumps(nasty_value(chosen)),
    lambda chosen: json.dumps([_TURN]),
    lambda chosen: datetime(2026, 1, 2, tzinfo=UTC),
    lambda chosen: timedelta(seconds=3),
    lambda chosen: Decimal("1.50"),
    lambda chosen: None,
)
_NAMES = (
    "prompt", "prompt", "messages", "prompt_token_ids", "id", "custom_id", "params", "temperature",
    "max_tokens", "n", "seed", "stop", "url", "method", "body", "extra", "extra 2", "\u00e9",
)  # fmt: skip


def jsonl_file(path: Path, rows: int, chosen: random.Random) -> int:
    """Write lines; how many of them are rows: those that are not blank."""
    lines = [bad_line(chosen) for _ in range(rows)]
    ends = [chosen.choice([b"\n", b"\n", b"\r\n", b"\n\n", b"\n \t\r\n"]) for _ in lines]
    ends[-1] = chosen.choice([b"", b"\n"])
    # A first line of its own, lest a line of noise make the file look like gzip.
    first = b'\xef\xbb\xbf{"prompt": "first"}\n'[3 * (chosen.random() < 0.5) :]
    path.write_bytes(first + b"".join(map(bytes.__add__, lines, ends)))
    return 1 + sum(bool(line.strip()) for line in lines)


def parquet_file(path: Path, rows: int, chosen: random.Random) -> int:
    """Write a table of random columns, a prompt mostly among them; its rows."""
    columns: dict[str, pa.Array] = {}
    for name in ["prompt", *chosen.sample(_NAMES, chosen.randint(0, 6))]:
        make = (
            _COLUMNS[0] if name == "prompt" and chosen.random() < 0.5 else chosen.choice(_COLUMNS)
        )
        columns[name] = _encoded(pa.array([make(chosen) for _ in range(rows)]), chosen)
    pq.write_table(pa.table(columns), path, row_group_size=max(1, rows // 3))
    return rows


def damaged_file(path: Path, chosen: random.Random) -> None:
    """Write a sound Parquet, gzip or JSONL file and break some of its bytes."""
    kind = chosen.randrange(3)
    if kind == 0:
        parquet_file(path, 50, chosen)
        data = bytearray(path.read_bytes())
    else:
        lines = b"".join(b'{"prompt": "p%d"}\n' % i for i in range(50))
        data = bytearray(gzip.compress(lines) if kind == 1 else lines)
    for _ in range(chosen.randint(1, 8)):
        data[chosen.randrange(len(data))] = chosen.randrange(256)
    if chosen.random() < 0.3:
        del data[chosen.randrange(len(data)) :]
    path.write_bytes(data)


def _encoded(array: pa.Array, chosen: random.Random) -> pa.Array:
    """The same values in another of Arrow's encodings, where there is one."""
    choices: Sequence[pa.DataType] = ()
    if pa.types.is_string(array.type):
        choices = (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))
    elif pa.types.is_integer(array.type):
        choices = (pa.int64(), pa.float64())
    elif pa.types.is_floating(array.type):
        choices = (pa.float64(), pa.float32())
    return array.cast(chosen.choice(choices), safe=False) if choices else array
