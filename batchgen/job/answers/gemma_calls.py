"""Gemma 4's calls: `<|tool_call>call:NAME{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>`.

Keys are bare, strings stand between two tokens of their own, all else is as in JSON.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from batchgen.job.answers.calls import Call, Calls, Tools, json_value
from batchgen.job.answers.marks import RAW, Marks

__all__ = ["GemmaCalls"]

_BARE_KEY = re.compile(r'([{,]\s*)([^\s{}\[\],:"]+)\s*:')


@dataclass(frozen=True, slots=True)
class GemmaCalls:
    """See the module."""

    name: str = "gemma4"
    tags: tuple[str, ...] = ("<|tool_call>", "<tool_call|>", '<|"|>')

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return self.tags[0] in template

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        begin, end = (re.escape(marks.written(tag)) for tag in self.tags[:2])
        one = re.compile(rf"{begin}\s*call:([^{{\s]+)(\{{.*?\}})\s*{end}", re.DOTALL)
        found = list(one.finditer(answer))
        if not found or len(found) != len(re.findall(begin, answer)):
            return None
        calls: list[Call] = []
        for match in found:
            value = self._value(match[2], marks)
            if not isinstance(value, dict):
                return None
            calls.append(Call(match[1], json.dumps(value, ensure_ascii=False)))
        return Calls(one.sub("", answer).strip(), tuple(calls))

    def _value(self, text: str, marks: Marks) -> Any:
        """The object that stands there; None for what is none."""
        parts = text.split(marks.written(self.tags[2]))
        written = [
            json.dumps(marks.plain(part, RAW)) if number % 2 else _BARE_KEY.sub(r'\1"\2":', part)
            for number, part in enumerate(parts)
        ]
        try:
            return json_value("".join(written))
        except ValueError:
            return None
