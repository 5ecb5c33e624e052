"""Columns that stand in the names of folders, `lang=en/part-0.parquet`, as Hive, Spark, DuckDB and
pandas write what a data set is partitioned by: the files themselves lack them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from urllib.parse import unquote

import pyarrow as pa

__all__ = ["Keys", "folder_keys", "with_keys", "with_values"]

Keys = tuple[tuple[str, str | None], ...]
_MAGIC = re.compile(r"[*?[]")
_NULL = "__HIVE_DEFAULT_PARTITION__"


def folder_keys(name: str, argument: str) -> Keys:
    """Of a file that `argument` found: those of the folders that it found on the way to it. What
    the argument names itself is where the data lies, and no column."""
    fixed = _MAGIC.split(argument)[0]
    folders = name.removeprefix(fixed[: fixed.rfind("/") + 1]).split("/")[:-1]
    pairs = (folder.partition("=") for folder in folders)
    return tuple((unquote(key), _value(value)) for key, equals, value in pairs if key and equals)


def _value(text: str) -> str | None:
    return None if text == _NULL else unquote(text)


def with_keys(schema: pa.Schema, keys: Keys) -> pa.Schema:
    """With the keys as columns of text; one that the file has itself is the file's."""
    for name, _ in keys:
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return schema


def with_values(
    batches: Iterator[pa.RecordBatch], keys: Keys, wanted: Collection[str]
) -> Iterator[pa.RecordBatch]:
    """With the keys that are wanted, and no columns of the file, as columns."""
    for batch in batches:
        for name, value in keys:
            if name not in wanted or name in batch.schema.names:
                continue
            column = pa.array([value], pa.string()).take(pa.array([0] * batch.num_rows, pa.int8()))
            batch = batch.append_column(name, column)
        yield batch
