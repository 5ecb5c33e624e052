"""`tool_choice`: `required` and a function's name hold the answer to a schema of calls.

The answer is then JSON by a grammar, as with vLLM: a function's arguments, or a list of
`{"name": ..., "parameters": ...}`, whatever the model writes otherwise. So it is always a call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from batchgen.engine.grammar.keywords import NAMED, VALUES
from batchgen.engine.request import GrammarKind, StructuredOutput
from batchgen.errors import ErrorCode, RowError
from batchgen.job.answers.calls import Call, Calls, Tools, json_value
from batchgen.job.answers.marks import Marks, Wish
from batchgen.job.quoting import shown
from batchgen.job.rows import InputRow

__all__ = ["ForcedCalls", "choose_tools", "forced_output", "read_tool_choice"]

_FREE = (None, "", "none", "auto")
_ANY_TOOL = ("required", "any")


def read_tool_choice(given: Mapping[str, Any]) -> str | None:
    """The function that a row must call, "" for any of its tools, None for no need to.

    RowError: INVALID_PARAM for a function that is none of its tools, UNSUPPORTED_SETTING for a form
    that is not served.
    """
    choice = given.get("tool_choice")
    if choice in _FREE or choice == {}:
        return None
    tools = given.get("tools")
    known = Tools.of(tools).parameters if isinstance(tools, list) else {}
    if not known:
        text = f"tool_choice {shown(choice)}: the row has no tools"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    if choice in _ANY_TOOL:
        return ""
    name = _name(choice)
    if name is None:
        text = f"tool_choice {shown(choice)} is not served: none, auto, required or a function are"
        raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)
    if name not in known:
        text = f"tool_choice names {shown(name)}; the row's tools are {', '.join(known)}"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    return name


def choose_tools(row: InputRow, given: Mapping[str, Any]) -> None:
    """Hold a row to the calls that its settings ask for. RowError as `read_tool_choice`, and
    INVALID_PARAM where the row has another format for its answer."""
    row.forced_tool = read_tool_choice(given)
    if row.forced_tool is None:
        return
    alone = given.get("parallel_tool_calls") is False
    wanted = forced_output(row.forced_tool, Tools.of(given["tools"]), alone=alone)
    other = "choices" if row.params.decides else "a format"
    if row.params.decides or row.params.structured_outputs not in (None, wanted):
        text = f"tool_choice and {other} ask for different outputs: keep one of them"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    row.params = replace(row.params, structured_outputs=wanted)


def forced_output(name: str, tools: Tools, *, alone: bool = False) -> StructuredOutput:
    """What the answer must match; `alone`: one call at most."""
    if name:
        schema = _object(tools.parameters[name])
        return _compact(schema)
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool}, "parameters": {"$ref": _place(number)}},
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for number, tool in enumerate(tools.parameters)
    ]
    schemas = {
        str(number): _moved(_object(schema), _place(number))
        for number, schema in enumerate(tools.parameters.values())
    }
    whole: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    if alone:
        whole["maxItems"] = 1
    return _compact(whole | {"$defs": schemas})


def _place(number: int) -> str:
    """Where a tool's schema is, for references."""
    return f"#/$defs/{number}"


def _moved(schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A schema at a place in another one: its references to itself begin there."""
    moved = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
    return {key: _with_references(value, place, key) for key, value in moved.items()}


def _with_references(value: Any, place: str, key: str) -> Any:
    if isinstance(value, list):
        return [_with_references(item, place, "") for item in value]
    if isinstance(value, dict) and key in NAMED:
        return {name: _with_references(item, place, "") for name, item in value.items()}
    if isinstance(value, dict):
        return {
            name: item if name in VALUES else _with_references(item, place, name)
            for name, item in value.items()
        }
    is_own = key == "$ref" and isinstance(value, str) and (value == "#" or value[:2] == "#/")
    return place + value[1:] if is_own else value


@dataclass(frozen=True, slots=True)
class ForcedCalls:
    """`CallFormat` of an answer that was held to `forced_output`. `function`: "" for a list."""

    function: str
    name: str = "forced"
    tags: tuple[str, ...] = ()

    def is_of(self, template: str) -> bool:
        """No template writes it."""
        return False

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        try:
            value = json_value(marks.plain(answer, Wish()))
        except ValueError:
            return None  # it was cut
        given = [{"name": self.function, "parameters": value}] if self.function else value
        calls = [
            Call(one["name"], json.dumps(one["parameters"], ensure_ascii=False)) for one in given
        ]
        return Calls("", tuple(calls))


def _compact(schema: Mapping[str, Any]) -> StructuredOutput:
    """Without whitespace between tokens: nobody sees it, as arguments are written anew."""
    return StructuredOutput(GrammarKind.JSON_SCHEMA, json.dumps(schema), whitespace="")


def _object(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool without parameters takes an empty object."""
    return schema or {"type": "object", "properties": {}, "additionalProperties": False}


def _name(choice: Any) -> str | None:
    if not isinstance(choice, Mapping) or choice.get("type", "function") != "function":
        return None
    inner = choice.get("function")
    name = inner.get("name") if isinstance(inner, Mapping) else choice.get("name")
    return name if isinstance(name, str) else None
