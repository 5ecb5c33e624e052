"""A Python object as a row: what a line of JSONL with the same content would be."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from batchgen.api.params import checked
from batchgen.api.source import is_missing, is_there
from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError, UsageError
from batchgen.job.fields.duplicates import SeenIds
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.fields.row_columns import PARAMS
from batchgen.job.fields.row_parser import RowParser
from batchgen.job.model.adapter_choice import settled_adapter
from batchgen.job.model.adapters import parse_adapters
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec
from batchgen.job.templates.row_template import RowTemplate

__all__ = ["RowReading"]

_JSON_SCALARS = (str, int, float, bool, type(None))
_WANTED = "a row is a dict, a string, a list of messages or a list of token ids"
_NO_NAMES = f"{_WANTED}; of a tuple of values nothing tells what is what: dict(zip(names, row))"
_OF_A_MESSAGE = {"role", "content", "name", "tool_calls", "tool_call_id"}
_ONE_MESSAGE = "this is one message of a chat; a chat is one row, a list of them: [[{...}], ...]"


class RowReading:
    """The rows of one call, numbered from 0; an id that came before is `duplicate_id`."""

    def __init__(self, spec: InputSpec, base: SamplingParams) -> None:
        self._spec = spec
        self._adapters = parse_adapters(spec.adapters).keys()
        self._base = _settled(base, self._adapters)
        self._kept = KeptColumns(spec.keep_columns)
        self._template = None if spec.template is None else RowTemplate.read(spec.template)
        self._seen = SeenIds()
        self._parsers: dict[SamplingParams, RowParser] = {}
        self.num_rows = 0

    def read(self, given: Any, base: SamplingParams | None = None) -> InputRow:
        """The next row. `base`: its parameters where it says none itself. Never raises for what a
        row holds."""
        index = self.num_rows
        self.num_rows += 1
        given = _with_names(given)
        try:
            raw = self._as_object(given)
            base = self._own_base(raw, base) or self._base
            row = self._parse(index, raw, base)
            if row.kept:
                as_given = {str(name): value for name, value in given.items()}
                row.kept = {self._kept.name_of(name): as_given[name] for name in row.kept}
        except RowError as error:
            row = InputRow(index, f"row {index}", error=RowError(error.code, error.message))
        except RecursionError:
            too_deep = RowError(ErrorCode.INVALID_JSON, "nested too deeply")
            row = InputRow(index, f"row {index}", error=too_deep)
        self._seen.enter(row)
        return row

    def _as_object(self, given: Any) -> dict[str, Any]:
        if isinstance(given, Mapping):
            if given.keys() <= _OF_A_MESSAGE and "role" in given:
                raise RowError(ErrorCode.INVALID_ROW, _ONE_MESSAGE)
            return {str(name): _plain(value) for name, value in given.items()}
        content = _plain(given)
        if isinstance(content, str):
            return {self._spec.prompt_column: content}
        if not isinstance(content, list):
            raise RowError(ErrorCode.INVALID_ROW, f"{_WANTED}, not {type(given).__name__}")
        if content and all(type(item) is int for item in content):
            return {"prompt_token_ids": content}
        if isinstance(given, tuple) and not any(isinstance(item, Mapping) for item in given):
            raise RowError(ErrorCode.INVALID_ROW, _NO_NAMES)
        return {self._spec.messages_column: content}

    def _own_base(self, raw: dict[str, Any], base: SamplingParams | None) -> SamplingParams | None:
        """A SamplingParams in the row's `params` says everything, in place of the call's."""
        for holder in PARAMS:
            own = raw.get(holder)
            if isinstance(own, SamplingParams):
                del raw[holder]
                base = checked(own)
        return base and settled_adapter(base, self._adapters)

    def _parse(self, index: int, raw: dict[str, Any], base: SamplingParams) -> InputRow:
        parser = self._parser(base)
        extras = {k: v for k, v in parser.columns.extras(raw).items() if self._kept.wants(k)}
        _refuse_surrogates({k: v for k, v in raw.items() if k not in extras})
        row = parser.parse(index, f"row {index}", raw, dict.fromkeys(extras))
        row.kept = extras
        return row

    def _make_parser(self, base: SamplingParams) -> RowParser:
        return RowParser(self._spec, base, self._kept, self._template)

    def _parser(self, base: SamplingParams) -> RowParser:
        """One for each set of parameters that rows are read over; there are few."""
        found = self._parsers.get(base)
        if found is None:
            self._parsers.clear()
            found = self._parsers[base] = self._make_parser(base)
        return found


def _with_names(given: Any) -> Any:
    """A table's row that knows its columns' names (pandas' Series, a named tuple) as a dict; any
    other row as it is."""
    if hasattr(given, "_asdict"):
        return {k: v for k, v in given._asdict().items() if is_there(v)}
    if hasattr(given, "to_dict") and hasattr(given, "index"):
        named = given.to_dict()
        if named and all(isinstance(name, str) for name in named):
            return {name: value for name, value in named.items() if is_there(value)}
    return given


def _settled(base: SamplingParams, adapters: Collection[str]) -> SamplingParams:
    try:
        return settled_adapter(base, adapters)
    except RowError as error:
        raise UsageError(f"sampling_params: {error.message}", "name one, or none") from None


def _plain(value: Any) -> Any:
    """Tuples, arrays and tensors as the lists, and numbers and texts as those, that JSON has."""
    if type(value) in _JSON_SCALARS:
        return value
    if is_missing(value):
        return None
    if isinstance(value, str):  # NumPy's, an enum's: its characters, not what it says of itself
        return str.__str__(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "as_py"):  # Arrow's
        return _plain(value.as_py())
    return value.tolist() if hasattr(value, "tolist") else value


def _refuse_surrogates(meaning: Mapping[str, Any]) -> None:
    try:
        json.dumps(meaning, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        text = "a string holds half of a surrogate pair (\\ud800 to \\udfff)"
        raise RowError(ErrorCode.INVALID_ROW, text) from None
    except (TypeError, ValueError):
        return  # the parser will say what is wrong with it
