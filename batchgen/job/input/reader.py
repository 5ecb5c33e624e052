"""The one way in: all sources of a job as `InputRow`s, in input order, streaming.

Every row that is read enters the input's digest, so that a resumed run can tell whether the rows
that an earlier run answered are still the same; rows that are already done are read for their
digest and id alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from batchgen.engine.request import SamplingParams
from batchgen.errors import RowError
from batchgen.job.fields.duplicates import SeenIds
from batchgen.job.fields.kept_columns import KeptColumns, TypedColumns
from batchgen.job.fields.params import merge
from batchgen.job.fields.row_columns import RowColumns
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.input.cells import cells_of
from batchgen.job.input.file_kinds import HEAD_BYTES, is_array, refuse_text
from batchgen.job.input.folder_keys import Keys
from batchgen.job.input.jsonl import JsonlRows
from batchgen.job.input.named_columns import check_names
from batchgen.job.input.rewritten import refuse_rewritten, stamp_of
from batchgen.job.input.source import Source, SourceKind
from batchgen.job.input.sources import find_sources
from batchgen.job.input_digest import InputDigest
from batchgen.job.row_sizes import carried_size
from batchgen.job.rows import InputRow
from batchgen.job.shard import Shard
from batchgen.job.spec import InputSpec, JobSpec, SamplingDefaults
from batchgen.job.stores.places import Place

if TYPE_CHECKING:
    from batchgen.job.model.files import ModelFiles
    from batchgen.job.templates.row_template import RowTemplate

__all__ = ["Reader"]

_log = logging.getLogger(__name__)
_SAMPLE_ROWS = 1000


class Rows(Protocol):
    """The rows of one source, undecoded, each with its line or row number."""

    @property
    def mark(self) -> str: ...

    def __iter__(self) -> Iterator[tuple[int, Any]]: ...

    def digest_bytes(self, payload: Any) -> bytes: ...

    def decode(self, payload: Any) -> dict[str, Any]: ...


class Reader:
    """Rows of the whole input. Iterate once; `digest` goes with the last row given.

    `shard`: its rows alone are given. All rows are read by every shard, for the digest and for ids
    that are already taken. Errors: InputUnreadableError, InvalidDataError, UsageError and
    OutputUnwritableError before the first row; InputUnreadableError on the way.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        output: Place | None = None,
        flags: SamplingDefaults | None = None,
        generation_defaults: Mapping[str, Any] | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.sources: tuple[Source, ...] = find_sources(spec.inputs, output)
        _tell_twice(self.sources)
        self.base_params: SamplingParams = merge({}, flags or {}, generation_defaults or {})
        self._spec = spec
        self._kept = KeptColumns(spec.keep_columns)
        self.row_template = _row_template(spec)
        self._parser = RowParser(spec, self.base_params, self._kept, self.row_template)
        self._shard = shard
        self._done: Callable[[int], bool] | None = None
        self._stopped = False
        self._seen = SeenIds()
        self.digest = InputDigest()
        # Taken before a byte is read: a file that changes under the run is then noticed.
        self._stamps = [stamp_of(source) for source in self.sources]
        self._identity = [source.identity() for source in self.sources]
        self._rows = [self._open(source) for source in self.sources]
        self._settle_jsonl_columns()
        for name in self._kept.not_met:
            _log.warning("--keep-columns %s: no source has it so far; it may be all null", name)

    @classmethod
    def of_job(cls, spec: JobSpec, files: ModelFiles | None) -> Reader:
        """The rows of a job, or of its shard, which may call its model by any of its names."""
        names = () if files is None else files.served_names
        served = (*spec.input.served_model_names, *names)
        return cls(
            replace(spec.input, served_model_names=served),
            output=spec.out,
            flags=spec.sampling,
            generation_defaults={} if files is None else files.generation_defaults,
            shard=spec.shard,
        )

    @property
    def kept_schema(self) -> list[tuple[str, pa.DataType]]:
        """Kept columns and their types, in the output's order, settled before the first row.

        From Parquet and `datasets` schemas, from declared types, and from the first 1,000 rows of
        JSONL. A JSONL extra that first appears later is in `InputRow.kept` all the same, as text.
        """
        return self._kept.schema

    def identity(self) -> list[dict[str, Any]]:
        """Name, kind, size and mtime of every source when it was opened: equal means unchanged."""
        return [dict(marks) for marks in self._identity]

    def skip_hint(self, done: Callable[[int], bool]) -> None:
        """Leave out rows whose index is done: they are read for digest and id, and not given."""
        self._done = done

    def stop(self) -> None:
        """Give no more rows, and pass over none; called from another thread."""
        self._stopped = True

    @property
    def rows_read(self) -> int:
        """So far."""
        return self.digest.rows

    def payloads(self) -> Iterator[tuple[str, int, Rows, Any]]:
        """Every row undecoded: its source's name, its number there, what decodes it. Leaves this
        reader as it was."""
        for source, rows in zip(self.sources, self._rows, strict=True):
            for number, payload in rows:
                yield source.name, number, rows, payload

    def id_of(self, rows: Rows, payload: Any) -> str | None:
        """A row's explicit id; None where it has none that can be read."""
        with suppress(RowError):
            raw, _ = _decoded(rows, payload)
            return None if raw is None else self._parser.columns.id.read(raw)
        return None

    def __iter__(self) -> Iterator[InputRow]:
        """Rows in input order. A row that cannot be served comes with its `error`."""
        limit = self._spec.limit
        for source, rows, stamp in zip(self.sources, self._rows, self._stamps, strict=True):
            left = None if limit is None else limit - self.rows_read
            before = self.digest.rows, self.digest.row_sum
            if not self._stopped:
                yield from self._rows_of(source, rows, left)
                refuse_rewritten(source, stamp, rows, self.digest, before)

    def _rows_of(self, source: Source, rows: Rows, left: int | None) -> Iterator[InputRow]:
        typed = None if isinstance(rows, JsonlRows) else self._kept.fitted(rows.kept)  # type: ignore[attr-defined]
        read, digest_bytes = self.digest, rows.digest_bytes
        prefix = f"{source.name}{rows.mark}"
        for number, payload in islice(rows, left):
            if self._stopped:
                return
            index = read.rows
            digest = read.add(digest_bytes(payload))
            if self._skipped(index):
                self._pass_over(rows, payload, typed)
                continue
            row = self._parse(index, f"{prefix}{number}", rows, payload, typed)
            row.digest = digest
            yield row

    def _parse(
        self, index: int, origin: str, rows: Rows, payload: Any, typed: TypedColumns | None
    ) -> InputRow:
        raw, error = _decoded(rows, payload)
        if raw is None:
            return InputRow(index, origin, params=self.base_params, error=error)
        row = self._parser.parse(index, origin, raw, typed)
        row.error = error or row.error
        self._seen.enter(row)
        row.carried = len(row.id or "")
        if row.kept:
            row.carried += carried_size(row.kept.values())
        return row

    def _skipped(self, index: int) -> bool:
        if self._shard is not None and not self._shard.has(index):
            return True
        return self._done is not None and self._done(index)

    def _pass_over(self, rows: Rows, payload: Any, typed: TypedColumns | None) -> None:
        """Take of a row what later rows depend on: its id and the columns it brings."""
        raw, _ = _decoded(rows, payload)
        with suppress(RowError):
            row_id = None if raw is None else self._parser.pass_over(raw, typed)
            if row_id is not None:
                self._seen.add(row_id)

    def _open(self, source: Source) -> Any:
        if source.kind.is_jsonl:
            columns, kept = self._parser.columns, self._kept
            keys = (key for key in source.keys if kept.wants(key[0]) or columns.reads(key[0]))
            return _json_rows(source, tuple(keys), columns)
        rows_of = _with_schema(source.kind)
        return rows_of(source, self._spec, self._parser, self._kept)

    def _settle_jsonl_columns(self) -> None:
        """Fix the columns that the first rows of the JSONL sources bring."""
        limit = self._spec.limit
        left = _SAMPLE_ROWS if limit is None else min(limit, _SAMPLE_ROWS)
        met: dict[str, None] = {}  # in order
        rows_before: list[dict[str, Any]] = []
        for rows in self._rows:
            if isinstance(rows, JsonlRows):
                for _, line in islice(rows, left):
                    left -= 1
                    with suppress(RowError):
                        raw = rows.decode(line)
                        met |= dict.fromkeys(raw)
                        rows_before.append({name: _kind_of(raw[name]) for name in raw})
        if all(isinstance(rows, JsonlRows) for rows in self._rows):
            check_names(self._spec, met, every_row=left > 0 and limit is None)
        for raw in rows_before:
            with suppress(RowError):
                self._kept.settle([self._parser.columns.extras(raw)])


def _decoded(rows: Rows, payload: Any) -> tuple[Mapping[str, Any] | None, RowError | None]:
    """A row, or of one that is not whole what could be read, and what is wrong with it."""
    try:
        return rows.decode(payload), None
    except RowError as error:  # made anew without the traceback's hold on the line
        return error.rest, RowError(error.code, error.message)


def _kind_of(value: Any) -> Any:
    """A value as small as it can be and still mean the same to whoever asks which columns a row
    brings: of rows with much text a thousand are held."""
    if isinstance(value, str | list):
        return value[:1] if isinstance(value, str) else []
    return {} if isinstance(value, dict) else value


def _with_schema(kind: SourceKind) -> Callable[..., Any]:
    """Each kind's own libraries are imported where there is one of it."""
    if kind is SourceKind.PARQUET:
        from batchgen.job.input.parquet_rows import parquet_rows

        return parquet_rows
    if kind is SourceKind.CSV:
        from batchgen.job.input.csv_rows import csv_rows

        return csv_rows
    from batchgen.job.input.hub_rows import hub_rows

    return hub_rows


def _json_rows(source: Source, keys: Keys, columns: RowColumns) -> JsonlRows:
    """Lines, or the elements of one array; InvalidDataError for text that is neither."""
    read = cells_of(columns.settings) if keys else {}
    rows = JsonlRows(source, keys, read)
    head = rows.head(HEAD_BYTES)
    refuse_text(source.name, head)
    if not is_array(head):
        return rows
    from batchgen.job.input.json_array import JsonArrayRows

    return JsonArrayRows(source, keys, read)


def _tell_twice(sources: Iterable[Source]) -> None:
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            _log.warning("input %s is named %d times: so often its rows are computed", name, count)


def _row_template(spec: InputSpec) -> RowTemplate | None:
    if spec.template is None:
        return None
    from batchgen.job.templates.row_template import RowTemplate

    return RowTemplate.read(spec.template)
