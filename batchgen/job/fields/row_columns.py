"""What the names of a row's columns mean: id, content, settings, or columns to keep."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

from batchgen.job.answers.thinking_choice import THINKING_NAMES, thinking_wishes
from batchgen.job.fields.kept_columns import KeptColumns
from batchgen.job.fields.openai_rows import ENVELOPE, is_openai_row
from batchgen.job.fields.params import PARAMETER_NAMES, near_miss
from batchgen.job.fields.row_ids import IdColumns
from batchgen.job.fields.setting_names import TEXT_SETTINGS
from batchgen.job.fields.settings import TEMPLATE_NAMES, TRUNCATE, joined
from batchgen.job.schema import own_columns
from batchgen.job.spec import InputSpec

if TYPE_CHECKING:
    from batchgen.job.templates.row_template import RowTemplate

__all__ = ["PARAMS", "SYSTEM", "TEMPLATE_COLUMNS", "TOKEN_IDS", "RowColumns"]

TOKEN_IDS = "prompt_token_ids"
PARAMS = ("params", "sampling_params", "extra_body")
"""Where a row may hold its parameters together: Ray's and vLLM's name, OpenAI's client's."""
SYSTEM = "system"
TEMPLATE_COLUMNS = "\0template"
"""Where a source with a schema puts what `--template` reads; without it, that is the row."""
_MOST_TOLD = 1000
_ALWAYS_SETTINGS = {"max_tokens", "max_new_tokens", "temperature", "top_p", "top_k"}
"""No column of a table is likely to hold these but for a model."""
_log = logging.getLogger(__name__)


class RowColumns:
    """Of all rows of an input. `ids`: of which `id` makes a row's id. `content`: prompt,
    messages, token ids. `settings`: parameters and what else changes a completion; `thinking`:
    those that are settings only where their value says so. What `kept` asks for by name, or a
    `template` reads, is no setting."""

    def __init__(self, spec: InputSpec, kept: KeptColumns, template: RowTemplate | None) -> None:
        self._kept, self._template = kept, template
        read: frozenset[str] = frozenset() if template is None else template.variables
        self.id = IdColumns.of(spec.id_column)
        self.ids = self.id.names
        self.content = (spec.prompt_column, spec.messages_column, TOKEN_IDS)
        names = PARAMETER_NAMES | TEXT_SETTINGS | {*TEMPLATE_NAMES, SYSTEM, TRUNCATE, *PARAMS[1:]}
        settings = names - {*self.content, *self.ids} - kept.named
        for name in sorted(settings & read):
            text = "--template reads %r, so it is a column, no setting (params may hold settings)"
            _log.warning(text, name)
        self.settings = settings - read
        self._at_top_level = self.settings - {*PARAMS}
        self.thinking = {*THINKING_NAMES} - kept.named - read
        taken = ({*self.content, *PARAMS} | self.settings) - kept.named
        self._taken = {name: frozenset(taken | self.id.used(name)) for name in self.ids}
        self._told: set[str] = set()

    def reads(self, name: str) -> bool:
        """Whether a column of that name has a meaning here, beside that of a column to keep."""
        known = {*self.ids, *self.content, *PARAMS} | self.settings
        return name in known or (self._template is not None and self._template.reads(name))

    def extras(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a JSONL row that have no meaning here, and those asked for by name."""
        taken = self._taken[self.id.key(raw)]
        if is_openai_row(raw):
            taken = taken | ENVELOPE
        taken = taken | (thinking_wishes(raw).keys() & self.thinking)
        extras = {k: v for k, v in raw.items() if k not in taken or k in self._kept.named}
        if not extras.keys() <= self._told:
            self._tell_held_settings(extras)
            filled = (name for name, value in extras.items() if value != {})  # what it holds counts
            self.tell_near_misses(filled, own_columns(raw))
        return extras

    def _tell_held_settings(self, extras: Mapping[str, Any]) -> None:
        """Say once of a column that it holds settings together, under a name that says nothing."""
        for name, value in extras.items():
            if name in self._told or name in self._kept.named or not isinstance(value, dict):
                continue
            held = [key for key in value if {key, near_miss(key)} & _ALWAYS_SETTINGS]
            if held and near_miss(name) != PARAMS[0]:
                self._told.add(name)
                text = "column %r holds %s, and changes nothing: settings are read in %s"
                _log.warning(text, name, ", ".join(held), PARAMS[0])

    def tell_near_misses(self, names: Iterable[str], own: Set[str]) -> None:
        """Say once of a column that its name is nearly a parameter's: it may have been meant.
        `own`: an output's own columns, which are no slips."""
        for name in names:
            if name not in self._told and len(self._told) < _MOST_TOLD:
                self._told.add(name)
                near = None if name in self._kept.named or name in own else near_miss(name)
                if near is not None:
                    text = "column %r is no parameter and changes nothing; did you mean %s?"
                    _log.warning(text, name, near)

    def settings_of(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters at the top level and in `params`; the same one in both must agree."""
        names, past = self._at_top_level, own_columns(raw)
        own = {k: v for k, v in raw.items() if k in names and k not in past and v is not None}
        own |= {k: v for k, v in thinking_wishes(raw).items() if k in self.thinking}
        for holder in PARAMS:
            if holder not in self._kept.named:
                own = joined(own, holder, raw.get(holder))
        return own
