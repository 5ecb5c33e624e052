"""Rows of a Parquet file, by record batch, only the columns that are needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError, InvalidDataError
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.input.arrow_rows import ArrowColumns, ArrowRows, find_columns
from batchgen.job.input.cells import cells_of
from batchgen.job.input.folder_keys import with_keys, with_values
from batchgen.job.input.source import Source
from batchgen.job.input.wide_integers import bytes_for_wide_integers, wide_integers
from batchgen.job.prefetch import prefetched
from batchgen.job.spec import InputSpec

__all__ = ["parquet_rows"]

_log = logging.getLogger(__name__)
_BATCH_ROWS = 1024
_BATCH_BYTES = 16 << 20
"""Of rows decoded at once, where fewer have as many."""
_BUFFER_BYTES = 1 << 20
_FETCH_BYTES = 4 << 20
"""Of one column, asked of a store at once."""
_BATCHES_AHEAD = 32
_LARGE_BATCHES_AHEAD = 2
_SPARK_UNIT = "us"
"""Of timestamps in INT96: in nanoseconds they wrap round outside 1677-2262, and the last day,
9999-12-31, was one of 1816."""


def parquet_rows(
    source: Source, spec: InputSpec, parser: RowParser, kept: KeptColumns
) -> ArrowRows:
    """The rows of one file. The schema is read at once.

    InvalidDataError for a column of the wrong type, InputUnreadableError for a damaged file.
    """
    opened: Callable[[], Any] = source.arrow_source
    try:
        schema = _schema(opened())
    except pa.ArrowNotImplementedError as error:
        opened = partial(_with_bytes, source, error)
        schema = _without_wide_integers(opened(), source.name, parser, kept)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(source, 0, error) from error
    known = with_keys(schema, source.keys)
    columns = find_columns(known, source.name, spec, parser, kept)
    cells = cells_of({name for name, _ in source.keys} & parser.columns.settings - {*schema.names})
    columns = replace(columns, read={**columns.read, **cells})
    batches = partial(_batches, source, columns, opened)
    return ArrowRows(columns, batches, partial(_damaged, source))


def _schema(opened: Any) -> pa.Schema:
    with pq.ParquetFile(opened, coerce_int96_timestamp_unit=_SPARK_UNIT) as file:
        return file.schema_arrow


def _with_bytes(source: Source, error: Exception) -> Any:
    """A source that pyarrow refuses, in a form that it reads."""
    try:
        if source.remote is None:
            return bytes_for_wide_integers(source.path)
    except ValueError:
        pass
    text = f"{source.name} has a column of a type that pyarrow cannot read: {first_line(error)}"
    hint = "write the file again without that column; the others cannot be read beside it"
    raise InvalidDataError(text, hint) from error


def _without_wide_integers(
    opened: Any, where: str, parser: RowParser, kept: KeptColumns
) -> pa.Schema:
    """The schema without columns that are not kept, which is said; InvalidDataError where one is
    needed."""
    schema, columns = _schema(opened), parser.columns
    needed = {*columns.content, *columns.ids, *columns.settings, *kept.named}
    for name in wide_integers(opened):
        text = f"{where}: column {name!r} holds integers of 128 bits, which pyarrow cannot read"
        if name in needed:
            raise InvalidDataError(text, "write it as text or as int64, or name another column")
        if kept.wants(name):
            _log.warning("%s: it is not kept", text)
        schema = schema.remove(schema.get_field_index(name))
    return schema


def _batches(
    source: Source, columns: ArrowColumns, opened: Callable[[], Any]
) -> Iterator[pa.RecordBatch]:
    # A buffer instead of whole column chunks: a row group may be larger than memory.
    remote = source.remote is not None
    how = {"buffer_size": _FETCH_BYTES if remote else _BUFFER_BYTES, "pre_buffer": False}
    with pq.ParquetFile(opened(), coerce_int96_timestamp_unit=_SPARK_UNIT, **how) as file:
        there = {*file.schema_arrow.names}
        names = [name for name in columns.names if name in there]
        rows = _batch_rows(file.metadata)
        batches = file.iter_batches(rows, columns=names, use_threads=False)
        most = _BATCHES_AHEAD if rows == _BATCH_ROWS else _LARGE_BATCHES_AHEAD
        ahead = prefetched(batches, most) if remote else batches
        yield from with_values(ahead, source.keys, columns.names)


def _batch_rows(file: pq.FileMetaData) -> int:
    """How many to decode at once: fewer where the rows of some row group are long. Its columns that
    are not read count, too: to ask for each costs more than small batches do."""
    groups = (file.row_group(number) for number in range(file.num_row_groups))
    longest = max((g.total_byte_size // max(g.num_rows, 1) for g in groups), default=0)
    return min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(longest, 1)))


def _damaged(source: Source, number: int, error: Exception) -> InputUnreadableError:
    if isinstance(error, FileNotFoundError | PermissionError):
        return InputUnreadableError(f"input {source.name}: {error.strerror}", "check the file")
    text = f"input {source.name} is damaged after row {number}: {first_line(error)}"
    return InputUnreadableError(text, "replace it with a whole copy and run the same command again")
