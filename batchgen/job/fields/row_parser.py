"""One decoded row as an `InputRow`: its id, what it says, its parameters and its kept columns.

Precedence of errors in one row: id, content, parameters, kept columns. Whatever could be read stays
in the row, so that an error row still has its id and columns. An empty prompt string passes: only
the tokenizer knows whether a BOS token makes it a prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError
from batchgen.job.answers.thinking_choice import spread_thinking
from batchgen.job.answers.tool_choice import choose_tools
from batchgen.job.fields.contents import (
    is_written_conversation,
    read_contents,
    read_token_ids,
)
from batchgen.job.fields.kept_columns import KeptColumns, TypedColumns
from batchgen.job.fields.media import media_columns
from batchgen.job.fields.messages import read_messages
from batchgen.job.fields.openai_rows import body_as_row, is_openai_row, read_body
from batchgen.job.fields.params import apply, read_params
from batchgen.job.fields.row_columns import SYSTEM, TEMPLATE_COLUMNS, TOKEN_IDS, RowColumns
from batchgen.job.fields.settings import (
    read_template_kwargs,
    read_texts,
    read_truncation,
    settled_kwargs,
    without_own_specials,
)
from batchgen.job.model.adapter_choice import adapter_of_body, settled_adapter
from batchgen.job.model.adapters import parse_adapters
from batchgen.job.quoting import shown
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec
from batchgen.job.templates.chat_shape import with_system

if TYPE_CHECKING:
    from batchgen.job.templates.row_template import RowTemplate

__all__ = ["RowParser"]

_MOST_TOLD = 1000
_MOST_PARAMS = 1000
_SMALL = frozenset({int, float, bool, type(None)})
_MOST_LISTED, _MOST_CHARACTERS = 32, 256
_log = logging.getLogger(__name__)


class RowParser:
    """`base` are the parameters of a row that sets none. With a `template`, columns are for it
    alone."""

    def __init__(
        self,
        spec: InputSpec,
        base: SamplingParams,
        kept: KeptColumns,
        template: RowTemplate | None = None,
    ) -> None:
        self._spec = spec
        self._base = base
        self._kept = kept
        self.template = template
        self._adapters = parse_adapters(spec.adapters).keys()
        self.columns = RowColumns(spec, kept, template)
        self._plain = {self.columns.ids[0], spec.prompt_column}
        self._told: set[str] = set()
        self._noted: set[frozenset[str]] = set()
        self._params: dict[tuple[Any, ...], SamplingParams] = {}

    def parse(
        self, index: int, origin: str, raw: Mapping[str, Any], typed: TypedColumns | None = None
    ) -> InputRow:
        """The row, or the row with the error it became. Never raises for what a row contains.

        `typed`: the kept columns of a source with a schema; None for JSONL, whose extras are read
        as they come.
        """
        row = InputRow(index, origin, params=self._base)
        problem = None
        plain = raw.keys() <= self._plain
        if typed is None and not plain:
            row.kept, problem = self._kept.read(self.columns.extras(raw))
        elif typed:
            row.kept, problem = self._kept.read_typed(raw, typed)
        try:
            row.id = self.columns.id.read(raw)
            if plain:
                self._fill_content(row, raw, self.columns.content)
                self._make_chat(row, None)
            else:
                self._fill(row, raw)
            if row.messages is not None:
                default = self._spec.chat_template_kwargs
                row.template_kwargs = settled_kwargs(row.messages, row.template_kwargs, default)
            if problem:
                raise RowError(ErrorCode.INVALID_ROW, problem)
        except RowError as error:
            row.error = RowError(error.code, error.message)
        except RecursionError:
            row.error = RowError(ErrorCode.INVALID_JSON, "nested too deeply")
        return row

    def pass_over(self, raw: Mapping[str, Any], typed: TypedColumns | None = None) -> str | None:
        """Of a row that is not parsed further: its explicit id, if any; its columns are noted."""
        if typed is None and not raw.keys() <= self._plain:
            self._note_columns(raw)
        try:
            return self.columns.id.read(raw)
        except RowError:
            return None

    def _note_columns(self, raw: Mapping[str, Any]) -> None:
        """Once for rows of the same names, where nothing but these decides what is kept: on the way
        to the first row that is left to do there may be millions."""
        names = frozenset(raw)
        if names in self._noted:
            return
        extras = self.columns.extras(raw)
        self._kept.read(extras)
        told_by_value = self.columns.thinking & names or len(names & {*self.columns.ids}) > 1
        if len(self._noted) < _MOST_TOLD and not told_by_value and self._kept.is_settled(extras):
            self._noted.add(names)

    def _fill(self, row: InputRow, raw: Mapping[str, Any]) -> None:
        if is_openai_row(raw):
            names = (*self._spec.served_model_names, *sorted(self._adapters))
            body = body_as_row(raw, names, self._spec.ignore_model)
            if self.template is not None:
                text = "an OpenAI row brings its own prompt; --template reads plain rows"
                raise RowError(ErrorCode.INVALID_ROW, text)
            self._fill_content(row, body, ("prompt", "messages", TOKEN_IDS))
            self._add_system(row, self._spec.system, "--system")
            self._set_params(row, adapter_of_body(read_body(raw), self._adapters) | body["params"])
            return
        self._fill_content(row, raw, self.columns.content)
        self._heed_media(row, raw)
        own = self.columns.settings_of(raw)
        self._make_chat(row, own.pop(SYSTEM, None))
        if own:
            self._set_params(row, own)

    def _set_params(self, row: InputRow, own: dict[str, Any]) -> None:
        is_chat = None if row.prompt_token_ids is not None else row.messages is not None
        own = without_own_specials(spread_thinking(read_texts(own)), is_chat=is_chat)
        row.params = self._over_base(read_params(own))
        row.truncate_prompt_tokens = read_truncation(own)
        row.template_kwargs = read_template_kwargs(own)
        choose_tools(row, own)
        if row.template_kwargs and row.messages is None:
            names = ", ".join(row.template_kwargs)
            text = f"{names}: only a chat template reads this, and the row is no chat"
            raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)

    def _over_base(self, own: Mapping[str, Any]) -> SamplingParams:
        """One object for all rows that set the same numbers and short lists, of stop strings or
        labels: making it takes longer than all else here. Others are let go: a schema, or a bias of
        100,000 tokens, may be each row's own."""
        key = tuple(own.items()) if all(map(_is_small, own.values())) else None
        params = None if key is None else self._params.get(key)
        if params is None:
            params = settled_adapter(apply(self._base, own), self._adapters)
            if key is not None and len(self._params) < _MOST_PARAMS:
                self._params[key] = params
        return params

    def _fill_content(
        self, row: InputRow, raw: Mapping[str, Any], columns: tuple[str, str, str]
    ) -> None:
        if self.template is not None:
            row.columns = raw.get(TEMPLATE_COLUMNS, raw)
            row.prompt = ""  # is filled in when it is rendered, as is the user's message made of it
            return
        prompt, messages, token_ids = read_contents(raw, columns)
        if messages is not None:
            row.messages = read_messages(messages)
        elif token_ids is not None:
            row.prompt_token_ids = read_token_ids(token_ids)
        elif type(prompt) is str:
            row.prompt = prompt
            if is_written_conversation(prompt):
                text = f"give --messages-column {columns[0]} to have it read as a chat"
                self._tell_once(f"%s: the prompt is a chat in JSON, taken as text: {text}", row)
        else:
            text = f"{columns[0]} must be a string, not {shown(prompt)}"
            raise RowError(ErrorCode.INVALID_ROW, text)

    def _heed_media(self, row: InputRow, raw: Mapping[str, Any]) -> None:
        """Nobody gets an answer to the text alone who did not say that it is what is asked."""
        for name, is_sure in media_columns(raw):
            what = f"column {shown(name)} holds a picture, a sound or a film, and"
            if is_sure and self.template is None and self._kept.all:
                hint = f"to have that answered, name what to keep: --keep-columns {name}"
                raise RowError(ErrorCode.UNSUPPORTED_SETTING, f"{what} text is read alone; {hint}")
            if len(self._told) < _MOST_TOLD:
                what = what if is_sure else f"column {shown(name)} changes nothing: it"
                self._tell_once(f"%s: {what.replace('%', '%%')} is not read", row)

    def _make_chat(self, row: InputRow, own_system: Any) -> None:
        """`--as-chat`: a plain prompt becomes a user message. A row's own `system` wins, unless it
        is empty, as tables have it where there is none."""
        system = self._spec.system
        is_own = own_system not in (None, "")
        if is_own:
            system = self._checked_system(row, own_system)
        if self._spec.as_chat and row.prompt is not None:
            row.messages = [{"role": "user", "content": row.prompt}]
            row.prompt = None
        self._add_system(row, system, "its `system`" if is_own else "--system")

    def _checked_system(self, row: InputRow, system: Any) -> str:
        if not isinstance(system, str):
            text = f"{SYSTEM} must be a string, not {shown(system)}"
            raise RowError(ErrorCode.INVALID_PARAM, text)
        if row.messages is None and not (self._spec.as_chat and row.prompt is not None):
            text = f"{SYSTEM}: only a chat has one; give --as-chat, or --keep-columns {SYSTEM}"
            raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)
        return system

    def _add_system(self, row: InputRow, system: str | None, whose: str) -> None:
        """Put before conversations that do not begin with such a message; of others it is said."""
        if system is None:
            return
        if row.messages is None:
            self._tell_once("%s: a plain prompt gets no --system; --as-chat makes it a chat", row)
            return
        given, row.messages = len(row.messages), with_system(row.messages, system)
        if len(row.messages) == given:
            self._tell_once(f"%s: the chat's own system message stands, not {whose}", row)

    def _tell_once(self, text: str, row: InputRow) -> None:
        if text not in self._told:
            self._told.add(text)
            _log.warning(text + " (said once)", row.origin)


def _is_small(value: Any) -> bool:
    if type(value) is not tuple:
        return type(value) in _SMALL
    if len(value) > _MOST_LISTED:
        return False
    return all(type(v) is int or (type(v) is str and len(v) <= _MOST_CHARACTERS) for v in value)
