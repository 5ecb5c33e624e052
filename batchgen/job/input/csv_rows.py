"""Rows of a CSV or TSV file with a header line, through Arrow.

Every column is text, so that an id `007` stays one, but for columns named like a parameter, whose
type Arrow finds out. A quoted value may hold line ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.csv as pv

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError
from batchgen.job.input.arrow_rows import ArrowColumns, ArrowRows, find_columns
from batchgen.job.input.kept_columns import KeptColumns
from batchgen.job.input.row_parser import RowParser
from batchgen.job.input.sources import Source
from batchgen.job.spec import InputSpec

__all__ = ["csv_rows"]

_BLOCK_BYTES = 8 << 20


def csv_rows(source: Source, spec: InputSpec, parser: RowParser, kept: KeptColumns) -> ArrowRows:
    """The rows of one file. The header, and the first block's types, are read at once.

    InvalidDataError for a file without a column of prompts, InputUnreadableError for a damaged one.
    """
    try:
        with _open(source, {}) as reader:
            names = reader.schema.names
        types = {name: pa.string() for name in names if name not in parser.param_columns}
        with _open(source, types) as reader:
            schema = reader.schema
    except (OSError, pa.ArrowException) as error:
        raise _damaged(source, 0, error) from error
    columns = find_columns(schema, source.name, spec, parser, kept)
    batches = partial(_batches, source, columns, types)
    return ArrowRows(columns, batches, partial(_damaged, source))


def _open(source: Source, types: dict[str, pa.DataType]) -> pv.CSVStreamingReader:
    tabs = ".tsv" in source.path.suffixes
    return pv.open_csv(
        source.name if source.remote is None else source.remote.open(),
        read_options=pv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=pv.ParseOptions(delimiter="\t" if tabs else ",", newlines_in_values=True),
        convert_options=pv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )


def _batches(
    source: Source, columns: ArrowColumns, types: dict[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    with _open(source, types) as reader:
        for batch in reader:
            yield batch.select(list(columns.names))


def _damaged(source: Source, number: int, error: Exception) -> InputUnreadableError:
    return InputUnreadableError(
        f"input {source.name} is no CSV that can be read on after row {number}: "
        f"{first_line(error)}",
        "mend it there; every row needs the header's number of values",
    )
