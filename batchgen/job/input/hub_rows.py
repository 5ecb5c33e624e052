"""Rows of a `datasets` source: a folder of `save_to_disk`, or a hub id, streamed.

`datasets` is imported when such a source is met, never before.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.input.arrow_rows import ArrowRows, find_columns
from batchgen.job.input.source import Source, SourceKind
from batchgen.job.spec import InputSpec

__all__ = ["hub_rows"]

_BATCH_ROWS = 1024
_log = logging.getLogger(__name__)


def hub_rows(source: Source, spec: InputSpec, parser: RowParser, kept: KeptColumns) -> ArrowRows:
    """The rows of one dataset. Opened at once, read on demand."""
    with _torch_left_out():
        dataset = _load(source, spec.split).with_format("arrow")
    columns = find_columns(_schema(dataset), source.name, spec, parser, kept)
    return ArrowRows(columns, partial(_batches, dataset), partial(_unreadable, source))


def _schema(dataset: Any) -> pa.Schema:
    """Of the declared features, or of the first batch where a stream declares none."""
    if dataset.features is not None:
        return dataset.features.arrow_schema
    for batch in _batches(dataset):
        return batch.schema
    return pa.schema([])


def _batches(dataset: Any) -> Iterator[pa.RecordBatch]:
    tables = dataset.iter(batch_size=_BATCH_ROWS)
    return chain.from_iterable(table.to_batches() for table in tables)


def _unreadable(source: Source, number: int, error: Exception) -> InputUnreadableError:
    text = f"dataset {source.name} cannot be read after row {number}: {error}"
    return InputUnreadableError(text, "run the same command again")


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
        text = f"dataset {source.name} (split {split}) cannot be opened: {first_line(error)}"
        hint = "if a file was meant, it does not exist; else check the name and the network"
        raise InputUnreadableError(text, hint) from error
    if not isinstance(dataset, datasets.DatasetDict):
        return dataset
    if split in dataset:
        others = ", ".join(name for name in dataset if name != split)
        if others:
            text = "dataset %s: its split %r is read, and not %s: name one with --split"
            _log.warning(text, source.name, split, others)
        return dataset[split]
    text = f"dataset {source.name} has no split {split!r}; it has {', '.join(dataset)}"
    raise InputUnreadableError(text, "name one with --split")
