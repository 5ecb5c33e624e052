"""Calls written as Python: `[get_weather(city="Paris"), f(x=1)]`, of literals alone."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any

from batchgen.job.answers.calls import Call, Calls, Tools
from batchgen.job.answers.json_calls import read_json_calls
from batchgen.job.answers.marks import RAW, Marks

__all__ = ["PythonicCalls"]

_MOST = 100_000
"""Characters of calls: what is longer is no list of calls, and Python's parser is recursive."""
_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_BACKSLASH = re.compile(r"""\\[\\'"abfnrtvx0-7uUN]|\\""")
_BLOCK = re.compile(r"```(?:python)?\s*\n(.*?)(?:```)?", re.DOTALL)
"""A block of code around the calls: MiniCPM3's."""
_JSON_NAMES = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class PythonicCalls:
    """A list of calls as a whole answer, maybe between tags; or, in tags, one call a line. Without
    tags each call must be of a tool of the row."""

    name: str
    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    clues: tuple[str, ...] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        """See `CallFormat.tags`."""
        return self.begins + self.ends

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return any(clue in template for clue in self.clues)

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        said, body = self._body(answer, marks)
        text = marks.plain(body, RAW).strip()
        block = _BLOCK.fullmatch(text)
        text = text if block is None else block[1].strip()
        if not text or len(text) > _MOST:
            return None
        calls = _calls(text if text.startswith("[") else f"[{','.join(text.splitlines())}]")
        if calls is None and self.begins:  # on request LFM2 writes JSON between its tags
            calls = read_json_calls(text, marks)
        if not calls or not all(tools.knows(call.name) for call in calls):
            return None
        return Calls(said.strip(), calls)

    def _body(self, answer: str, marks: Marks) -> tuple[str, str]:
        """What is said beside the calls, and they."""
        for begin, end in zip(self.begins, self.ends, strict=True):
            before, found, after = answer.partition(marks.written(begin))
            if found:
                body, _, rest = after.partition(marks.written(end))
                return before + rest, body
        return "", answer if answer.lstrip().startswith("[") else ""


def _calls(text: str) -> tuple[Call, ...] | None:
    try:
        found = ast.parse(_STRING.sub(_on_one_line, text), mode="eval").body
        if not isinstance(found, ast.List):
            return None
        return tuple(_call(item) for item in found.elts)
    except (SyntaxError, ValueError, MemoryError):
        return None


def _on_one_line(string: re.Match[str]) -> str:
    """A string as Python takes it: templates write line breaks and backslashes as they are."""
    text = _BACKSLASH.sub(lambda found: found[0] if len(found[0]) > 1 else "\\\\", string[0])
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call by names")
    name = ast.unparse(node.func)
    if not re.fullmatch(r"[\w.]+", name):
        raise ValueError("no name")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("no name")
        arguments[keyword.arg] = _literal(keyword.value)
    return Call(name, json.dumps(arguments, ensure_ascii=False, allow_nan=False))


def _literal(node: ast.expr) -> Any:
    """Python's literals, and JSON's names of three of them."""
    if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else ast.literal_eval(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("keys are strings")
        return dict(zip(keys, map(_literal, node.values), strict=True))
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError("no JSON value")
    return value
