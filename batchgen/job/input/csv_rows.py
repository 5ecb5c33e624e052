"""Rows of a CSV or TSV file with a header line, through Arrow.

Every column is text, so that an id `007` stays one; columns named like a parameter are read as
`cells`. A quoted value may hold line ends.
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.csv as pv

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError, InvalidDataError
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.input.arrow_rows import ArrowRows, find_columns
from batchgen.job.input.cells import cells_of
from batchgen.job.input.compressed import JoinedStreams
from batchgen.job.input.file_kinds import HEAD_BYTES, compression_by_head
from batchgen.job.input.folder_keys import with_keys, with_values
from batchgen.job.input.source import Source
from batchgen.job.quoting import shown
from batchgen.job.spec import InputSpec

__all__ = ["csv_rows"]

_BLOCK_BYTES = 8 << 20
_CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}
_EMPTY = "Empty CSV file"
"""As Arrow says it."""
_NOT_WHOLE = "it is no whole xz file"
_CUT_SHORT = "Truncated compressed stream"


def csv_rows(source: Source, spec: InputSpec, parser: RowParser, kept: KeptColumns) -> ArrowRows:
    """The rows of one file. The header is read at once.

    InvalidDataError for a file without a column of prompts, InputUnreadableError for a damaged one.
    """
    try:
        with _open(_Ended(source)) as reader:
            names = reader.schema.names
    except UnicodeDecodeError as error:
        text = f"{source.name}: the line that names its columns is not UTF-8"
        hint = f"iconv -f LATIN1 -t UTF-8 {source.name} > rows.csv, or what else the file is in"
        raise InvalidDataError(text, hint) from error
    except (OSError, pa.ArrowException) as error:
        raise _damaged(source, 0, error) from error
    _refuse_other_delimiter(names, source.name, spec)
    schema = pa.schema([(name, pa.string()) for name in names])
    columns = find_columns(with_keys(schema, source.keys), source.name, spec, parser, kept)
    cells = cells_of(parser.columns.settings & {*columns.names})
    columns = replace(columns, read={**columns.read, **cells})
    own = [name for name in columns.names if name in names]

    def batches() -> Iterator[pa.RecordBatch]:
        return with_values(_batches(source, own, names), source.keys, columns.names)

    return ArrowRows(columns, batches, partial(_damaged, source), ": row ")


def _refuse_other_delimiter(names: Sequence[str], where: str, spec: InputSpec) -> None:
    """A header that is one name for Arrow, and several with another mark between them."""
    marks = [mark for mark in ";|\t," if mark in names[0]] if len(names) == 1 else []
    if not marks or names[0] in (spec.prompt_column, spec.messages_column):
        return
    text = f"{where} has values with {shown(marks[0])} between them, and is read as one column"
    read = f"pandas.read_csv({where!r}, sep={marks[0]!r})"
    hint = f"python -c \"import pandas; {read}.to_csv('rows.csv', index=False)\""
    raise InvalidDataError(text, hint)


class _Ended:
    """A file, decompressed, for Arrow to read, and how it ended."""

    def __init__(self, source: Source) -> None:
        endings = PurePath(source.name.lower()).suffixes
        self.delimiter = "\t" if ".tsv" in endings else ","
        self._stream = _decompressed(source)
        self._end = b""

    def read(self, size: int) -> bytes:
        """The next bytes."""
        try:
            data: bytes = self._stream.read(size)
        except (lzma.LZMAError, EOFError) as error:
            raise pa.ArrowInvalid(f"{_NOT_WHOLE}: {error}") from None
        self._end = (self._end + data[-3:])[-3:]
        return data

    def close(self) -> None:
        """Called by Arrow when it is through."""
        self._stream.close()

    @property
    def closed(self) -> bool:
        """Asked by Arrow before it reads."""
        return bool(self._stream.closed)

    def is_open_quote(self, last: bytes) -> bool:
        """Whether nothing closed the quote that began the file's last value: there are line ends in
        it, and the file ends without a quote."""
        return any(end in last for end in (b"\r", b"\n")) and not self._end.rstrip().endswith(b'"')


def _decompressed(source: Source) -> Any:
    """By what the file begins with, whatever its name says."""
    with source.open(HEAD_BYTES) as file:
        compressed = compression_by_head(file.read(HEAD_BYTES), source.name)
    if compressed == "xz":  # which Arrow has not
        streams = JoinedStreams(source.open(-1), lzma.LZMADecompressor)
        return io.BufferedReader(streams, _BLOCK_BYTES)
    raw = source.name if source.remote is None else source.remote.open()
    return pa.input_stream(raw, compression=_CODECS.get(compressed or ""))


def _open(file: _Ended, names: Iterable[str] = ()) -> pv.CSVStreamingReader:
    """Arrow's reader, which closes the file; so does its refusal."""
    try:
        return pv.open_csv(
            file,
            read_options=pv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
            parse_options=pv.ParseOptions(delimiter=file.delimiter, newlines_in_values=True),
            convert_options=pv.ConvertOptions(
                check_utf8=False,  # so that text that is none is its row's error
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except BaseException:
        file.close()
        raise


def _batches(
    source: Source, wanted: Sequence[str], names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The last row is given when it is known not to have taken other rows in."""
    file = _Ended(source)
    last = None
    with _open(file, names) as reader:
        for batch in reader:
            if last is not None:
                yield last.select(wanted)
            last = batch
    if last is None or not last.num_rows:
        return
    if not file.is_open_quote(bytes(last.column(last.num_columns - 1)[-1].as_buffer())):
        yield last.select(wanted)
        return
    yield last.slice(0, last.num_rows - 1).select(wanted)
    raise pa.ArrowInvalid("a quote begins a value that nothing ends, up to the end of the file")


def _damaged(source: Source, number: int, error: Exception) -> InputUnreadableError:
    reason = first_line(error)
    if reason == _EMPTY:
        text = f"input {source.name} is empty: it has no line that names its columns"
        return InputUnreadableError(text, "leave it out, or write that line: id,prompt")
    hint = "mend it there; every row needs the header's number of values, commas between them"
    if "quote" in reason or "straddling" in reason:
        hint = "mend it there: a value that begins with a quote ends with one, and has others twice"
    if _NOT_WHOLE in reason or _CUT_SHORT in reason:
        where = f"after row {number}" if number else "somewhere after its first line"
        hint = "replace it with a whole copy and run the same command again"
        return InputUnreadableError(f"input {source.name} is damaged {where}: {reason}", hint)
    text = f"input {source.name} is no CSV that can be read on after row {number}: {reason}"
    return InputUnreadableError(text, hint)
