"""Rows of Arrow batches (Parquet, `datasets`): which columns are read, and each row as a dict.

A null is an absent value. A column named like a parameter is that parameter.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pyarrow as pa

from batchgen.errors import ErrorCode, InputUnreadableError, InvalidDataError, RowError
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.fields.media import is_media_type
from batchgen.job.fields.openai_rows import ENVELOPE, URL, is_openai_row
from batchgen.job.fields.row_columns import PARAMS, TEMPLATE_COLUMNS
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.fields.type_fitting import is_text
from batchgen.job.input.arrow_values import (
    content_of,
    id_of,
    is_json,
    is_list,
    kept_type,
    kept_value,
    plain_of,
)
from batchgen.job.input.named_columns import few
from batchgen.job.schema import own_columns
from batchgen.job.spec import InputSpec
from batchgen.job.stored_types import stored_type
from batchgen.job.templates.row_template import WHOLE_ROW, RowTemplate

__all__ = ["ArrowColumns", "ArrowRow", "ArrowRows", "find_columns"]

ArrowRow = tuple[Any, ...]
Convert = Callable[[Any], Any]
_log = logging.getLogger(__name__)


class _Unreadable(Enum):
    """What stands for a value that Python cannot hold; its name is the same in every process."""

    TEXT = "is not UTF-8"
    DATE = "holds a date or time that is out of range"


@dataclass(frozen=True, slots=True)
class ArrowColumns:
    """What is read of a source with a schema: all columns in file order, and the kept ones."""

    names: tuple[str, ...]
    kept: dict[str, pa.DataType]
    """The columns that go to the output, of the type that they have here."""
    read: dict[str, Convert]
    """What makes a row's value of Arrow's, for the columns that need it."""
    template: dict[str, Convert] = field(default_factory=dict)
    """What makes of Arrow's value the one that `--template` reads."""

    def decode(self, row: ArrowRow) -> dict[str, Any]:
        """The row as a dict. RowError INVALID_ROW for text that is not UTF-8, or a far date, with
        the other columns."""
        raw = dict(zip(self.names, row, strict=True))
        if _Unreadable.TEXT not in row and _Unreadable.DATE not in row:
            return self._converted(raw)
        odd = {name: one.value for name, one in raw.items() if isinstance(one, _Unreadable)}
        rest = self._converted({k: None if k in odd else v for k, v in raw.items()})
        name, what = next(iter(odd.items()))
        raise RowError(ErrorCode.INVALID_ROW, f"column {name!r} {what}", rest)

    def _converted(self, raw: dict[str, Any]) -> dict[str, Any]:
        columns = {name: convert(raw[name]) for name, convert in self.template.items()}
        for name, convert in self.read.items():
            raw[name] = convert(raw[name])
        return {**raw, TEMPLATE_COLUMNS: columns} if columns else raw


@dataclass(frozen=True, slots=True)
class ArrowRows:
    """The rows of one source: `(row number from 1, values)`, read batch by batch on demand."""

    columns: ArrowColumns
    batches: Callable[[], Iterable[pa.RecordBatch]]
    """Each call reads from the first row on."""
    unreadable: Callable[[int, Exception], InputUnreadableError]
    """What a failure after so many rows is called."""
    mark: str = ":"
    """Between the source's name and a row's number."""

    @property
    def kept(self) -> dict[str, pa.DataType]:
        """The columns that go to the output, of the type that they have here."""
        return self.columns.kept

    def __iter__(self) -> Iterator[tuple[int, ArrowRow]]:
        """Stream rows; InputUnreadableError says after which row the source gives out."""
        number = 0
        try:
            for batch in self.batches():
                for row in self._rows(batch):
                    number += 1
                    yield number, row
        except (OSError, pa.ArrowException) as error:
            raise self.unreadable(number, error) from error

    def digest_bytes(self, row: ArrowRow) -> bytes:
        """What the content digest takes of a row: its values as Python writes them."""
        return repr(row).encode("utf-8", "surrogatepass")

    def decode(self, row: ArrowRow) -> dict[str, Any]:
        """The row as a dict; RowError for text that is not UTF-8."""
        return self.columns.decode(row)

    def _rows(self, batch: pa.RecordBatch) -> Iterator[ArrowRow]:
        names = self.columns.names
        values = [_values(batch.column(batch.schema.get_field_index(name))) for name in names]
        return zip(*values, strict=True)


def find_columns(
    schema: pa.Schema, where: str, spec: InputSpec, parser: RowParser, kept: KeptColumns
) -> ArrowColumns:
    """The columns to read of a schema; its extra columns are declared to `kept`.

    InvalidDataError names what is missing or has the wrong type.
    """
    present, columns = dict(zip(schema.names, schema.types, strict=True)), parser.columns
    read = _read_by(parser.template, present, where)
    envelope = {*ENVELOPE, URL} & present.keys() if is_openai_row(present) else set()
    if parser.template is None and not envelope:
        _check_content(present, where, columns.content)
    _check_id_column(present, where, spec, columns.ids)
    own = own_columns(present)
    meant = {*columns.content, *(columns.settings - own), *PARAMS} - kept.named
    meant.update(columns.ids, envelope - {URL})
    meant |= {name for name in columns.thinking if _is_setting(present.get(name))}
    other = {name: present[name] for name in present if name in kept.named or name not in meant}
    _heed_media(other, where, kept, parser.template)
    extra = {name: None for name in other if kept.wants(name) or name in envelope}
    kinds = {name: kept_type(present[name]) for name in extra}
    kept.stand_beside(extra)
    for name, kind in kinds.items():
        kept.declare(name, kind, where)
        if not _loads_alike(present[name], kind):
            kept.tell_changed(name, present[name], kind)
    names = tuple(name for name in present if name in meant or name in extra or name in read)
    columns.tell_near_misses((name for name in present if name not in meant), own)
    counts = Counter(schema.names)
    twice = [name for name in names if counts[name] > 1]
    if twice:
        raise InvalidDataError(f"{where} has two columns {twice[0]!r}", "rename one of them")
    converts = _converts(present, names, extra, columns.ids)
    return ArrowColumns(names, kinds, converts, read)


def _heed_media(
    kinds: dict[str, pa.DataType], where: str, kept: KeptColumns, template: RowTemplate | None
) -> None:
    """Refuse columns of pictures, sounds and films that nobody said are but carried along, and name
    those of which somebody did."""
    media = [name for name, kind in kinds.items() if is_media_type(name, kind)]
    for name in media:
        what = f"{where}: column {name!r} holds pictures, sounds or films ({kinds[name]})"
        if template is not None and name in template.variables:
            raise InvalidDataError(f"{what}, and --template reads it", "leave it out there")
        if template is None and kept.all:
            rest = ",".join(name for name in kinds if name not in media) or "none"
            hint = f"to have the text alone answered, name what to keep: --keep-columns {rest}"
            raise InvalidDataError(f"{what}, and text is read alone", hint)
        _log.warning("%s, and is not read", what)


def _read_by(
    template: RowTemplate | None, present: dict[str, pa.DataType], where: str
) -> dict[str, Convert]:
    """The columns that `--template` reads; said of those that the source has not."""
    if template is None:
        return {}
    wanted = template.variables
    for name in sorted(wanted - present.keys() - {WHOLE_ROW}):
        near = template.near_miss(name, present)
        _log.warning("%s: --template reads %r, which is no column here%s", where, name, near)
    read = present if WHOLE_ROW in wanted else present.keys() & wanted
    return {name: plain_of(present[name]) for name in read}


def _loads_alike(kind: pa.DataType, kept: pa.DataType) -> bool:
    return bool(kind == kept or is_json(kind))


def _converts(
    present: dict[str, pa.DataType], names: Iterable[str], extra: Container[str], ids: Iterable[str]
) -> dict[str, Convert]:
    found = {}
    for name in names:
        of = kept_value if name in extra else id_of if name in ids else content_of
        found[name] = of(present[name])
    return {name: convert for name, convert in found.items() if convert is not None}


def _check_content(present: dict[str, pa.DataType], where: str, columns: Sequence[str]) -> None:
    if not any(name in present for name in columns):
        hint = "name the column with --prompt-column or --messages-column"
        text = f"{where} has none of the columns {', '.join(columns)}; it has {few(present)}"
        raise InvalidDataError(text, hint)
    prompt, messages, token_ids = columns
    for name, fits, what in (
        (prompt, _is_prompt, "strings"),
        (messages, _is_messages, "lists of role and content"),
        (token_ids, _is_integers, "lists of integers"),
    ):
        kind = present.get(name)
        if kind is not None and not pa.types.is_null(kind) and not fits(kind):
            hint = "convert the column, or name another: --prompt-column, --messages-column"
            raise InvalidDataError(f"{where}: column {name!r} holds {kind}, not {what}", hint)


def _check_id_column(
    present: dict[str, pa.DataType], where: str, spec: InputSpec, names: Sequence[str]
) -> None:
    for name in names if spec.id_column is not None else ():
        if name not in present:
            text = f"{where} has no column {name}; it has {few(present)}"
            raise InvalidDataError(text, "name the column of ids with --id-column, or give none")
        _check_ids(present, where, (name,))
    _check_ids(present, where, names)


def _is_setting(kind: pa.DataType | None) -> bool:
    """Whether a column named like a wish to think is one: a text under that name is a column."""
    return kind is not None and (pa.types.is_struct(kind) or pa.types.is_boolean(kind))


def _is_messages(kind: pa.DataType) -> bool:
    """Lists of structs or maps, or anything that may hold JSON text of such a list."""
    if is_text(kind) or is_json(kind):
        return True
    tests = (pa.types.is_struct, pa.types.is_map, is_json)
    return is_list(kind) and any(test(kind.value_type) for test in tests)


def _is_prompt(kind: pa.DataType) -> bool:
    return is_text(kind) or _is_messages(kind) or _is_integers(kind)


def _check_ids(present: dict[str, pa.DataType], where: str, names: Sequence[str]) -> None:
    """The id column, the first there is, must be of a type that ids can have."""
    name = next((name for name in names if name in present), None)
    if name is None:
        return
    kind = present[name]
    if is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return
    if is_json(kind) or isinstance(kind, pa.UuidType) or _is_integer_dictionary(kind):
        return
    if pa.types.is_decimal(kind) and kind.scale <= 0:  # a warehouse's integers: NUMBER(38, 0)
        return
    text = f"{where}: column {name!r} holds {kind}, and an id is a string or an integer"
    raise InvalidDataError(text, "convert the column, or name another one with --id-column")


def _is_integer_dictionary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) and pa.types.is_integer(kind.value_type))


def _is_integers(kind: pa.DataType) -> bool:
    return is_list(kind) and pa.types.is_integer(kind.value_type)


def _values(column: pa.Array) -> list[Any]:
    """A column's Python values, of which Arrow makes the same column again."""
    stored = stored_type(column.type)
    if stored != column.type:
        column = column.cast(stored)
    try:
        values: list[Any] = column.to_pylist()
        return values
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _Unreadable.TEXT
    except (ValueError, OverflowError):
        return _Unreadable.DATE
