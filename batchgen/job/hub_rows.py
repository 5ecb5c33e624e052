"""Rows of a `datasets` source: a folder of `save_to_disk`, or a hub id, streamed.

`datasets` is imported when such a source is met, never before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pyarrow as pa

from batchgen.errors import InputUnreadableError
from batchgen.job.arrow_rows import ArrowColumns, ArrowRow, find_columns, rows_of
from batchgen.job.kept_columns import KeptColumns
from batchgen.job.row_parser import RowParser
from batchgen.job.sources import Source, SourceKind
from batchgen.job.spec import InputSpec

__all__ = ["HubRows"]

_BATCH_ROWS = 1024


class HubRows:
    """The rows of one dataset: `(row number from 1, values)`. Opened at once, read on demand."""

    def __init__(
        self, source: Source, spec: InputSpec, parser: RowParser, kept: KeptColumns
    ) -> None:
        self._source = source
        with _torch_left_out():
            self._dataset = _load(source, spec.split).with_format("arrow")
        self.columns: ArrowColumns = find_columns(self._schema(), source.name, spec, parser, kept)
        self.digest_bytes = self.columns.digest_bytes
        self.kept = self.columns.kept

    def __iter__(self) -> Iterator[tuple[int, ArrowRow]]:
        """Stream rows; InputUnreadableError where the source gives out."""
        number = 0
        try:
            for row in rows_of(self._batches(), self.columns):
                number += 1
                yield number, row
        except (OSError, pa.ArrowException) as error:
            text = f"dataset {self._source.name} cannot be read after row {number}: {error}"
            raise InputUnreadableError(text, "run the same command again") from error

    def decode(self, row: ArrowRow) -> dict[str, Any]:
        """The row as a dict; RowError for text that is not UTF-8."""
        return self.columns.decode(row)

    def _schema(self) -> pa.Schema:
        """Of the declared features, or of the first batch where a stream declares none."""
        if self._dataset.features is not None:
            return self._dataset.features.arrow_schema
        for batch in self._batches():
            return batch.schema
        return pa.schema([])

    def _batches(self) -> Iterator[pa.RecordBatch]:
        tables = self._dataset.iter(batch_size=_BATCH_ROWS)
        return chain.from_iterable(table.to_batches() for table in tables)


@contextmanager
def _torch_left_out() -> Iterator[None]:
    """A streamed dataset imports torch, where it is installed, only to be its DataLoader's kin."""
    import datasets

    before = datasets.config.TORCH_AVAILABLE
    datasets.config.TORCH_AVAILABLE = before and "torch" in sys.modules
    try:
        yield
    finally:
        datasets.config.TORCH_AVAILABLE = before


def _load(source: Source, split: str) -> Any:
    """A `datasets` Dataset or IterableDataset. InputUnreadableError says what was looked for."""
    import datasets

    try:
        if source.kind is SourceKind.DATASET_FOLDER:
            dataset = datasets.load_from_disk(source.name)
        else:
            name, _, config = source.name.partition(":")
            return datasets.load_dataset(name, config or None, split=split, streaming=True)
    except Exception as error:  # `datasets` raises errors of many libraries
        text = f"dataset {source.name} (split {split}) cannot be opened: {_first_line(error)}"
        hint = "if a file was meant, it does not exist; else check the name and the network"
        raise InputUnreadableError(text, hint) from error
    if not isinstance(dataset, datasets.DatasetDict):
        return dataset
    if split in dataset:
        return dataset[split]
    text = f"dataset {source.name} has no split {split!r}; it has {', '.join(dataset)}"
    raise InputUnreadableError(text, "name one with --split")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
