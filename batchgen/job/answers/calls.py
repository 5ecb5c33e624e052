"""Calls of tools in an answer: what every format gives, and the column that it becomes.

`tool_calls` is JSON text of OpenAI's list: a string loads everywhere and goes into CSV, arguments
are JSON text within it as OpenAI has them, and no schema of tools has to fit one of Arrow's.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from batchgen.job.answers.marks import Marks

__all__ = [
    "Call",
    "CallFormat",
    "Calls",
    "Tools",
    "calls_column",
    "json_value",
    "no_constant",
    "object_text",
    "read_calls",
    "typed_value",
]


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `arguments`: JSON text of an object; `id`: the model's own, if it gave one."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of an answer in order, and what it says beside them, as marked text."""

    content: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Tools:
    """A row's tools by name: the schemas of their parameters. Empty: none are known."""

    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]]) -> Tools:
        """Of OpenAI's list: chats' form, with `function`, or that of responses, without."""
        functions = [tool.get("function") or tool for tool in tools]
        return cls(
            {
                str(function["name"]): function.get("parameters") or {}
                for function in functions
                if isinstance(function, Mapping) and "name" in function
            }
        )

    def knows(self, name: str) -> bool:
        """Whether a call of this name may be one."""
        return not self.parameters or name in self.parameters

    def schema(self, name: str, parameter: str) -> Mapping[str, Any]:
        """What is known of a parameter."""
        schema = self.parameters.get(name, {})
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        known = properties.get(parameter) if isinstance(properties, Mapping) else None
        return known if isinstance(known, Mapping) else {}

    def value(self, name: str, parameter: str, text: str) -> Any:
        """An argument that was written as text, in the type that its schema has."""
        return typed_value(self.schema(name, parameter), text)


_WORDS = {"true": True, "false": False, "none": None}
_NESTED = ("array", "object")
_MOST_LITERAL = 100_000
"""Characters: Python's parser is recursive."""


class CallFormat(Protocol):
    """How a model writes calls."""

    @property
    def name(self) -> str:
        """Of its parser."""

    @property
    def tags(self) -> tuple[str, ...]:
        """What may be tokens."""

    def is_of(self, template: str) -> bool:
        """Whether a chat template writes this format."""

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """The calls of an answer (marked text); None: it has none, or one is not whole, so that all
        of it is text."""


def read_calls(form: CallFormat, answer: str, marks: Marks, tools: Tools) -> Calls | None:
    """As `CallFormat.read`; an answer that is nested deeper than Python reads is text."""
    try:
        return form.read(answer, marks, tools)
    except RecursionError:
        return None


def json_value(text: str) -> Any:
    """JSON as models write it: control characters in strings pass. ValueError for anything else,
    and for what is nested deeper than Python reads."""
    try:
        return json.loads(text, strict=False, parse_constant=no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def object_text(text: str) -> str | None:
    """JSON text of the object that a text is, an empty one where it says nothing; None for what is
    no object."""
    try:
        value = json_value(text.strip() or "{}")
    except ValueError:
        return None
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else None


def typed_value(schema: Mapping[str, Any], text: str) -> Any:
    """Text in the type of its schema: what is no string is JSON."""
    kind = schema.get("type")
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return text
    try:
        return json_value(text)
    except ValueError:
        lowered = text.strip().lower()
        return _WORDS.get(lowered, text) if kind not in _NESTED else _python_value(text, text)


def _python_value(text: str, default: Any) -> Any:
    """The JSON value of a list or dict as Python writes it, which some templates do."""
    try:
        value = ast.literal_eval(text.strip()) if len(text) <= _MOST_LITERAL else default
        return json.loads(json.dumps(value, allow_nan=False))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return default


def calls_column(calls: Sequence[Call], key: str) -> str:
    """The column's text; ids that the model did not give are made of `key`, so that a run again
    gives the same. Nine characters, which is what Mistral's templates take."""
    made = [
        {
            "id": call.id or blake2b(f"{key}/{number}".encode(), digest_size=5).hexdigest()[:9],
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(calls)
    ]
    return json.dumps(made, ensure_ascii=False)


def no_constant(name: str) -> Any:
    """For JSON decoders: Python reads NaN and Infinity, which are no JSON."""
    raise ValueError(f"{name} is no JSON")
