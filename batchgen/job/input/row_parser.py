"""One decoded row as an `InputRow`: its id, what it says, its parameters and its kept columns.

Precedence of errors in one row: id, content, parameters, kept columns. Whatever could be read stays
in the row, so that an error row still has its id and columns. An empty prompt string passes: only
the tokenizer knows whether a BOS token makes it a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError
from batchgen.job.input.kept_columns import KeptColumns
from batchgen.job.input.messages import read_messages, read_token_ids
from batchgen.job.input.openai_rows import ENVELOPE, body_as_row, is_openai_row
from batchgen.job.input.params import PARAMETER_NAMES, UNSUPPORTED_NAMES, apply, read_params
from batchgen.job.quoting import shown
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec
from batchgen.job.text.template import as_messages, with_system

__all__ = ["RowParser"]

TOKEN_IDS = "prompt_token_ids"


class RowParser:
    """Knows the names of the columns. `base` are the parameters of a row that sets none."""

    def __init__(self, spec: InputSpec, base: SamplingParams, kept: KeptColumns) -> None:
        self._spec = spec
        self._base = base
        self._kept = kept
        self.id_columns = (spec.id_column,) if spec.id_column else ("id", "custom_id")
        self.content_columns = (spec.prompt_column, spec.messages_column, TOKEN_IDS)
        names = PARAMETER_NAMES | UNSUPPORTED_NAMES
        self.param_columns = names - set(self.content_columns) - set(self.id_columns) - kept.named
        consumed = {*self.content_columns, "params"} | self.param_columns
        self._taken = {name: frozenset(consumed | {name}) for name in self.id_columns}
        self._plain = {self.id_columns[0], spec.prompt_column}

    def parse(
        self, index: int, origin: str, raw: Mapping[str, Any], typed: Sequence[str] | None = None
    ) -> InputRow:
        """The row, or the row with the error it became. Never raises for what a row contains.

        `typed`: the kept columns of a source with a schema; None for JSONL, whose extras are read
        as they come.
        """
        row = InputRow(index, origin, params=self._base)
        problem = None
        plain = raw.keys() <= self._plain
        if typed is None and not plain:
            row.kept, problem = self._kept.read(self.extras(raw))
        elif typed:
            row.kept = self._kept.read_typed(raw, typed)
        try:
            row.id = self._read_id(raw)
            if plain:
                self._fill_content(row, raw, self.content_columns)
                self._make_chat(row)
            else:
                self._fill(row, raw)
            if problem:
                raise RowError(ErrorCode.INVALID_ROW, problem)
        except RowError as error:
            row.error = RowError(error.code, error.message)
        except RecursionError:
            row.error = RowError(ErrorCode.INVALID_JSON, "nested too deeply")
        return row

    def pass_over(self, raw: Mapping[str, Any], typed: Sequence[str] | None = None) -> str | None:
        """Of a row that is not parsed further: its explicit id, if any; its columns are noted."""
        if typed is None and not raw.keys() <= self._plain:
            self._kept.read(self.extras(raw))
        try:
            return self._read_id(raw)
        except RowError:
            return None

    def extras(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a JSONL row that have no meaning here, and those asked for by name."""
        taken = self._taken[self._id_key(raw)]
        if is_openai_row(raw):
            taken = taken | ENVELOPE
        return {k: v for k, v in raw.items() if k not in taken or k in self._kept.named}

    def _id_key(self, raw: Mapping[str, Any]) -> str:
        """The first id column that has a value, else the first."""
        for name in self.id_columns:
            if raw.get(name) not in (None, ""):
                return name
        return self.id_columns[0]

    def _read_id(self, raw: Mapping[str, Any]) -> str | None:
        value = None
        for name in self.id_columns:
            value = raw.get(name)
            if value is not None and value != "":
                break
        if value is None or value == "":
            return None
        if type(value) is str:
            return value
        if type(value) is int:
            return str(value)
        text = f"an id is a string or an integer, not {shown(value)}"
        raise RowError(ErrorCode.INVALID_ROW, text)

    def _fill(self, row: InputRow, raw: Mapping[str, Any]) -> None:
        if is_openai_row(raw):
            body = body_as_row(raw, self._spec.served_model_names, self._spec.ignore_model)
            self._fill_content(row, body, ("prompt", "messages", TOKEN_IDS))
            self._add_system(row)
            row.params = apply(self._base, read_params(body["params"]))
            return
        self._fill_content(row, raw, self.content_columns)
        self._make_chat(row)
        own = self._own_params(raw)
        if own:
            row.params = apply(self._base, read_params(own))

    def _fill_content(
        self, row: InputRow, raw: Mapping[str, Any], columns: tuple[str, str, str]
    ) -> None:
        prompt_column, messages_column, ids_column = columns
        prompt, messages = raw.get(prompt_column), raw.get(messages_column)
        token_ids = raw.get(ids_column)
        given = (prompt is not None) + (messages is not None) + (token_ids is not None)
        if given != 1:
            raise _one_content(given, prompt_column, messages_column, raw)
        if messages is not None:
            row.messages = read_messages(messages)
        elif token_ids is not None:
            row.prompt_token_ids = read_token_ids(token_ids)
        elif type(prompt) is str:
            row.prompt = prompt
        else:
            text = f"{prompt_column} must be a string, not {shown(prompt)}"
            raise RowError(ErrorCode.INVALID_ROW, text)

    def _make_chat(self, row: InputRow) -> None:
        """`--as-chat`: a plain prompt becomes a user message."""
        if self._spec.as_chat and row.prompt is not None:
            row.messages = as_messages(row.prompt, self._spec.system)
            row.prompt = None
        self._add_system(row)

    def _add_system(self, row: InputRow) -> None:
        """`--system`: put before conversations that do not begin with such a message."""
        if self._spec.system is not None and row.messages is not None:
            row.messages = with_system(row.messages, self._spec.system)

    def _own_params(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters at the top level and in `params`; the same one in both must agree."""
        own = {k: v for k, v in raw.items() if k in self.param_columns and v is not None}
        inner = raw.get("params")
        if isinstance(inner, str):
            inner = _json_object(inner)
        if inner is None:
            return own
        if not isinstance(inner, dict):
            text = f"params must be an object, not {shown(inner)}"
            raise RowError(ErrorCode.INVALID_PARAM, text)
        for name in own.keys() & inner.keys():
            if inner[name] is not None and inner[name] != own[name]:
                text = f"{name} stands in the row and in params with different values"
                raise RowError(ErrorCode.INVALID_PARAM, text)
        return {**own, **{k: v for k, v in inner.items() if v is not None or k not in own}}


def _one_content(
    given: int, prompt_column: str, messages_column: str, raw: Mapping[str, Any]
) -> RowError:
    names = f"{prompt_column}, {messages_column}, {TOKEN_IDS}"
    if given:
        return RowError(ErrorCode.INVALID_ROW, f"more than one of {names}")
    has = shown([key for key, value in raw.items() if value is not None])
    return RowError(ErrorCode.MISSING_PROMPT, f"none of {names}; the row has {has}")


def _json_object(text: str) -> Any:
    """`params` written as JSON text, as Parquet files often have it."""
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        raise RowError(ErrorCode.INVALID_PARAM, "params is no JSON object") from None
