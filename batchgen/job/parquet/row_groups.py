"""A Parquet file whose row groups are encoded and packed by several threads at once.

Arrow's writer does one column after the other. So each row group is made as a small file in memory;
their data go one behind the other, then their page indexes, then one footer that knows where all of
it lies: what one writer would have written.

https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from batchgen.job.parquet.thrift import Struct, decoded, encoded
from batchgen.job.schema import output_writer

__all__ = ["RowGroupWriter"]

_MAGIC = b"PAR1"
_END_BYTES = 8
"""Behind a footer: its length, and the magic number."""
_ENCODERS = 2
_MAX_ORDINAL = (1 << 15) - 1

# Field ids of parquet.thrift, of a file:
_ROWS, _GROUPS = 3, 4
# of a row group,
_CHUNKS, _GROUP_OFFSET, _ORDINAL = 1, 5, 7
# of a column's chunk in it; each index's length stands behind its offset,
_CHUNK_OFFSET, _METADATA, _OFFSET_INDEX, _COLUMN_INDEX = 2, 3, 4, 6
# of that chunk's metadata: the data pages, an index page, the dictionary, a Bloom filter,
_OFFSETS = (9, 10, 11, 14)
# and of an offset index.
_PAGES, _PAGE_OFFSET = 1, 1


class RowGroupWriter:
    """Write tables, a row group each, to a new file at `path`; `close` ends it.

    As many are held as are encoded at once: `write` waits for the first of them.
    """

    def __init__(self, path: Path, schema: pa.Schema, metadata: Mapping[str, str]) -> None:
        self._schema = schema.with_metadata(dict(metadata))
        self._footer = _footer(_made(self._schema, None))[0]
        self._indexes: list[tuple[Struct, int, bytes]] = []  # of a chunk, its field, its bytes
        self._file = path.open("xb")
        self._size = self._file.write(_MAGIC)
        self._pool = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="batchgen-encode")
        self._encoding: deque[Future[pa.Buffer]] = deque()

    def __enter__(self) -> RowGroupWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abandon()

    def write(self, table: pa.Table) -> None:
        """The next row group: at least one row. Raises OSError, also for those before."""
        while len(self._encoding) >= _ENCODERS:
            self._append(self._encoding.popleft().result())
        self._encoding.append(self._pool.submit(_made, self._schema, table))

    def close(self) -> None:
        """Write what is being encoded, the indexes and the footer."""
        while self._encoding:
            self._append(self._encoding.popleft().result())
        # All column indexes, then all offset indexes: a reader fetches either in one piece.
        for chunk, field, data in sorted(self._indexes, key=lambda index: -index[1]):
            chunk[field] = chunk[field][0], self._size
            self._write(data)
        footer = encoded(self._footer)
        self._write(footer + len(footer).to_bytes(4, "little") + _MAGIC)
        self.abandon()

    def abandon(self) -> None:
        """Leave the file as it is, and end the threads."""
        self._pool.shutdown(cancel_futures=True)
        self._file.close()

    def _append(self, made: pa.Buffer) -> None:
        """The row group of that file, moved to where this one ends."""
        footer, end = _footer(made)
        (group,) = footer[_GROUPS][1][1]
        by = self._size - len(_MAGIC)
        for chunk in group[_CHUNKS][1][1]:
            for field in (_COLUMN_INDEX, _OFFSET_INDEX):
                if field in chunk:
                    start, length = chunk[field][1], chunk[field + 1][1]
                    end = min(end, start)
                    self._keep_index(chunk, field, made.slice(start, length).to_pybytes(), by)
            _move(chunk, (_CHUNK_OFFSET,), by)
            _move(chunk[_METADATA][1], _OFFSETS, by)
        _move(group, (_GROUP_OFFSET,), by)
        self._count(group, footer[_ROWS][1])
        self._write(made.slice(len(_MAGIC), end - len(_MAGIC)))

    def _keep_index(self, chunk: Struct, field: int, data: bytes, by: int) -> None:
        """An index goes to the file's end; only that of offsets says where pages lie."""
        if field == _OFFSET_INDEX:
            index = decoded(data)
            for page in index[_PAGES][1][1]:
                _move(page, (_PAGE_OFFSET,), by)
            data = encoded(index)
            chunk[field + 1] = chunk[field + 1][0], len(data)
        self._indexes.append((chunk, field, data))

    def _count(self, group: Struct, rows: int) -> None:
        groups = self._footer[_GROUPS][1][1]
        if _ORDINAL in group:
            group[_ORDINAL] = group[_ORDINAL][0], len(groups)
        if len(groups) > _MAX_ORDINAL:
            group.pop(_ORDINAL, None)
        groups.append(group)
        self._footer[_ROWS] = self._footer[_ROWS][0], self._footer[_ROWS][1] + rows

    def _write(self, data: bytes | pa.Buffer) -> None:
        self._size += self._file.write(data)


def _made(schema: pa.Schema, table: pa.Table | None) -> pa.Buffer:
    """A Parquet file of one row group, or of none."""
    sink = pa.BufferOutputStream()
    with output_writer(sink, schema) as writer:
        if table is not None:
            writer.write_table(table, row_group_size=table.num_rows)
    return sink.getvalue()


def _footer(file: pa.Buffer) -> tuple[Struct, int]:
    """The footer, and where it begins."""
    end = file.size - _END_BYTES
    begin = end - int.from_bytes(file.slice(end, 4).to_pybytes(), "little")
    return decoded(file.slice(begin, end - begin).to_pybytes()), begin


def _move(struct: Struct, fields: tuple[int, ...], by: int) -> None:
    """Add to the offsets that are there; 0 says that there is none."""
    for field in fields:
        if field in struct and struct[field][1]:
            struct[field] = struct[field][0], struct[field][1] + by
