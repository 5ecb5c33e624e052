"""The output's columns: declared up front, never inferred, never null-typed (INTERFACE).

Order: the base columns, then kept input columns, then late ones (JSONL extras seen on the way,
always strings), then those of `OPTIONAL_FIELDS` that the job or a row asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.rows import OutputRow
from batchgen.job.stored_types import array_of, stored_type

__all__ = [
    "BASE_SCHEMA",
    "MAX_ROW_GROUP_ROWS",
    "OPTIONAL_FIELDS",
    "RESERVED_NAMES",
    "SCHEMA_VERSION",
    "late_columns",
    "output_schema",
    "output_writer",
    "own_columns",
    "record_batch",
]

SCHEMA_VERSION = 1
MAX_ROW_GROUP_ROWS = 65_536
_SORTING_COLUMNS = (pq.SortingColumn(0), pq.SortingColumn(1))

_MOMENT = pa.timestamp("us", tz="UTC")
_REQUIRED = {"index", "sample", "id", "status", "preemptions", "attempt", "run_id"}
_TYPES: dict[str, pa.DataType] = {
    "index": pa.int64(),
    "sample": pa.int32(),
    "id": pa.string(),
    "status": pa.string(),
    "prompt": pa.string(),
    "completion": pa.string(),
    "reasoning": pa.string(),
    "finish_reason": pa.string(),
    "stop_reason": pa.string(),
    "error_code": pa.string(),
    "error_message": pa.string(),
    "prompt_tokens": pa.int32(),
    "completion_tokens": pa.int32(),
    "cached_tokens": pa.int32(),
    "queue_s": pa.float64(),
    "prefill_s": pa.float64(),
    "ttft_s": pa.float64(),
    "decode_s": pa.float64(),
    "tpot_s": pa.float64(),
    "latency_s": pa.float64(),
    "preemptions": pa.int32(),
    "attempt": pa.int32(),
    "seed": pa.int64(),
    "started_at": _MOMENT,
    "finished_at": _MOMENT,
    "run_id": pa.string(),
}
BASE_SCHEMA = pa.schema(
    [pa.field(name, kind, nullable=name not in _REQUIRED) for name, kind in _TYPES.items()]
)
_LIKELY_TOKEN = pa.struct(
    [("token_id", pa.int32()), ("token", pa.string()), ("logprob", pa.float32())]
)
_LABEL = pa.struct([("label", pa.string()), ("prob", pa.float64()), ("logprob", pa.float64())])
_DECISION = pa.struct(
    [("name", pa.string()), ("choice", pa.string()), ("choice_probs", pa.list_(_LABEL))]
)
OPTIONAL_FIELDS = {
    name: pa.field(name, kind)
    for name, kind in (
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("token_texts", pa.list_(pa.string())),
        ("top_logprobs", pa.list_(pa.list_(_LIKELY_TOKEN))),
        ("prompt_logprobs", pa.list_(pa.float32())),
        ("prompt_logprob_sum", pa.float64()),
        ("prompt_token_texts", pa.list_(pa.string())),
        ("prompt_top_logprobs", pa.list_(pa.list_(_LIKELY_TOKEN))),
        ("tool_calls", pa.string()),
        ("reasoning_tokens", pa.int32()),
        ("choice", pa.string()),
        ("choice_probs", pa.list_(_LABEL)),
        ("decisions", pa.list_(_DECISION)),
    )
}
"""In the output's order. A column is there where the job asks for it, or a row that has a value."""
RESERVED_NAMES = frozenset(_TYPES) | frozenset(OPTIONAL_FIELDS)
"""Names that a kept column may not have."""
_OF_OUTPUTS = frozenset({"sample", "completion", "attempt", "run_id"})
_NONE: frozenset[str] = frozenset()

_GETTERS: dict[str, Callable[[OutputRow], Any]] = {
    name: attrgetter(name) for name in (*_TYPES, *OPTIONAL_FIELDS)
}
_DICTIONARY = ["status", "finish_reason", "stop_reason", "error_code", "run_id"]
_LONG_TEXT = {"prompt", "completion", "reasoning", "error_message", "tool_calls"}


def own_columns(names: Collection[str]) -> frozenset[str]:
    """An output's own columns where columns of these names are one: `seed` and `logprobs` are then
    what was, no settings of the job that reads them."""
    return RESERVED_NAMES if _OF_OUTPUTS.issubset(names) else _NONE


def output_schema(
    kept: Iterable[tuple[str, pa.DataType]] = (),
    late: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> pa.Schema:
    """Schema of an output with these kept columns (own types), late ones and optional ones, which
    may be among the late ones."""
    late = list(late)
    wanted = {*optional, *late}
    fields = [*BASE_SCHEMA, *(pa.field(name, _typed(kind)) for name, kind in kept)]
    fields += [pa.field(name, pa.string()) for name in late if name not in OPTIONAL_FIELDS]
    fields += [field for name, field in OPTIONAL_FIELDS.items() if name in wanted]
    return pa.schema(fields)


def late_columns(rows: Sequence[OutputRow], declared: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Columns nobody declared -> (index of the first row with it, its place in that row).

    `rows` are sorted by index. The pair orders late columns the same way in any split into parts.
    """
    seen = set(declared)
    late: dict[str, tuple[int, int]] = {}
    for row in rows:
        if not seen.issuperset(row.kept):
            for place, name in enumerate(row.kept):
                if name not in seen:
                    seen.add(name)
                    late[name] = (row.index, place)
    for name in OPTIONAL_FIELDS.keys() - seen:
        getter = _GETTERS[name]
        first = next((row.index for row in rows if getter(row) is not None), None)
        if first is not None:
            late[name] = (first, -1)
    return late


def record_batch(rows: Sequence[OutputRow], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as one Arrow batch of `schema`, column by column."""
    return pa.RecordBatch.from_arrays([_column(rows, field) for field in schema], schema=schema)


def output_writer(
    where: Any,
    schema: pa.Schema,
    *,
    metadata: Mapping[str, str] | None = None,
    part: bool = False,
) -> pq.ParquetWriter:
    """A Parquet writer with the house's settings. A part does without what only readers need, and
    packs with zstd only what is long: a decoder for each short column costs more than it saves."""
    names = [field.name for field in schema]
    short = [name for name in names if name not in _LONG_TEXT]
    short += _leaves(OPTIONAL_FIELDS.values())
    packed = dict.fromkeys(short, "snappy") | dict.fromkeys(_LONG_TEXT, "zstd")
    measured = [name for name in names if name not in _LONG_TEXT]
    writer = pq.ParquetWriter(
        where,
        schema.with_metadata(dict(metadata)) if metadata else schema,
        compression=packed if part else "zstd",
        # Level 3 packs a fiftieth smaller and takes twice the time.
        compression_level=dict.fromkeys(_LONG_TEXT, 1) if part else 1,
        use_dictionary=_DICTIONARY,
        write_statistics=["index", "sample"] if part else measured,
        write_page_index=not part,
        sorting_columns=list(_SORTING_COLUMNS),
        store_schema=True,
    )
    return writer


def _leaves(fields: Iterable[pa.Field], prefix: str = "") -> list[str]:
    """Paths of the columns that Parquet stores, as a writer names them."""
    found: list[str] = []
    for field in fields:
        path, kind = prefix + field.name, field.type
        while pa.types.is_list(kind):
            path, kind = f"{path}.list.element", kind.value_type
        inner = [kind.field(i) for i in range(kind.num_fields)]
        found += _leaves(inner, f"{path}.") if inner else [path]
    return found


def _typed(kind: pa.DataType) -> pa.DataType:
    """A null-typed input column becomes a string column of nulls."""
    return pa.string() if pa.types.is_null(kind) else kind


def _column(rows: Sequence[OutputRow], field: pa.Field) -> pa.Array:
    getter = _GETTERS.get(field.name)
    name = field.name
    values = list(map(getter, rows)) if getter else [row.kept.get(name) for row in rows]
    try:
        return array_of(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError):
        kind = stored_type(field.type)
        return array_of([_storable(value, kind) for value in values], field.type)


def _storable(value: Any, kind: pa.DataType) -> Any:
    """`value` as the column can hold it: JSON text in a string column, null where nothing fits.

    The reader has already made error rows of values that do not fit a declared type; this is the
    last line, so that no value whatever can end a job.
    """
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = value if value is None or isinstance(value, str) else json.dumps(value, default=str)
        return text and text.encode("utf-8", "replace").decode()
    try:
        pa.scalar(value, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError):
        return None
    return value
