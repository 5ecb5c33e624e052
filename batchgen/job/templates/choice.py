"""Which chat template a job renders with: the flag's, one of the model's by name, or the model's
own choice, which may depend on whether a chat has tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import UsageError
from batchgen.job.model.chat_templates import DEFAULT, TOOL_USE
from batchgen.job.templates.sandbox import read_template

__all__ = ["TemplateChoice", "choose_template"]

FLAG = "--chat-template"


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """Templates' texts. `tool_use`: for chats with tools. `given`: the flag chose, and no other
    counts. `source` None: the model has none."""

    source: str | None
    tool_use: str | None = None
    given: bool = False


def choose_template(value: str | None, templates: Mapping[str, str]) -> TemplateChoice:
    """`value`: of --chat-template, a name among `templates`, a file, or a template's text.

    Raises UsageError, naming what is there, for a value that is neither.
    """
    if value is None:
        return _of_model(templates)
    if value in templates:
        return TemplateChoice(templates[value], given=True)
    inline = "{%" in value or "{{" in value
    if templates.keys() - {DEFAULT} and not inline and not Path(value).expanduser().is_file():
        raise UsageError(
            f"{FLAG} {value}: neither a file nor a template of the model",
            f"the model has {', '.join(sorted(templates))}",
        )
    return TemplateChoice(read_template(value, FLAG), given=True)


def _of_model(templates: Mapping[str, str]) -> TemplateChoice:
    tool_use = templates.get(TOOL_USE)
    if not templates or DEFAULT in templates:
        return TemplateChoice(templates.get(DEFAULT), tool_use)
    names = ", ".join(sorted(templates)).translate({ord(c): None for c in "'\"\\{}"})
    text = f"the model has several chat templates, none of them default; {FLAG} takes one: {names}"
    return TemplateChoice(f'{{{{ raise_exception("{text}") }}}}', tool_use)
