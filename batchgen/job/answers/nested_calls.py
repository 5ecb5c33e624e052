"""Calls written in tags down to the last value: MiniMax-M3's, one mark before each tag."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchgen.job.answers.calls import Call, Calls, Tools, typed_value
from batchgen.job.answers.marks import RAW, Marks

__all__ = ["NestedCalls"]

_INVOKE = re.compile(r"""invoke name="?([^"]+)"?""")
_ITEM = "item"
_EMPTY: dict[Any, Any] = {"array": [], "object": {}}


@dataclass(slots=True)
class _Element:
    """A tag, what stands in it, and where it is not closed yet."""

    name: str
    text: str = ""
    children: list[_Element] = field(default_factory=list)

    def value(self, schema: Mapping[str, Any], marks: Marks) -> Any:
        """As JSON; ValueError for text between tags."""
        if not self.children:
            text = marks.plain(self.text, RAW)
            empty = None if text.strip() else _EMPTY.get(schema.get("type"))
            return typed_value(schema, text) if empty is None else empty
        if self.text.strip():
            raise ValueError(self.text)
        if schema.get("type") != "object" and all(one.name == _ITEM for one in self.children):
            inner = _mapping(schema.get("items"))
            return [one.value(inner, marks) for one in self.children]
        known = _mapping(schema.get("properties"))
        return {one.name: one.value(_mapping(known.get(one.name)), marks) for one in self.children}


@dataclass(frozen=True, slots=True)
class NestedCalls:
    """`MARK<tool_call>`, in it `MARK<invoke name="f">`, in it `MARK<key>value MARK</key>`; a value
    that is an object is made of such keys, a list of `item`s."""

    name: str
    mark: str

    @property
    def tags(self) -> tuple[str, ...]:
        """See `CallFormat.tags`."""
        return (self.mark,)

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return self.mark in template and "<tool_call>" in template

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        tag = re.compile(re.escape(marks.written(self.mark)) + r"<(/?)([^<>]+)>")
        first, *rest = tag.split(answer)
        root = _Element("", first)
        open_ones = [root]
        for close, name, text in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            if not close:
                open_ones[-1].children.append(_Element(name))
                open_ones.append(open_ones[-1].children[-1])
            elif not _closes(open_ones.pop().name, name) or not open_ones:
                return None
            open_ones[-1].text += text
        if any(one.name != "tool_call" for one in open_ones[1:]):
            return None  # it was cut within a call
        try:
            calls = [_call(one, marks, tools) for block in root.children for one in block.children]
        except ValueError:
            return None
        return Calls(root.text.strip(), tuple(calls)) if calls else None


def _closes(opened: str, name: str) -> bool:
    return opened == name or opened.startswith(f"{name} ")


def _call(element: _Element, marks: Marks, tools: Tools) -> Call:
    found = _INVOKE.fullmatch(element.name)
    if found is None or element.text.strip():
        raise ValueError(element.name)
    arguments = {
        one.name: one.value(tools.schema(found[1], one.name), marks) for one in element.children
    }
    return Call(found[1], json.dumps(arguments, ensure_ascii=False))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
