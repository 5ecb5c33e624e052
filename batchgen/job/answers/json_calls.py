"""Calls written as JSON: objects or lists of them, between tags or bare."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from batchgen.job.answers.calls import Call, Calls, Tools, json_value, no_constant
from batchgen.job.answers.marks import RAW, Marks

__all__ = ["BareJsonCalls", "MistralCalls", "NamedJsonCalls", "TaggedJsonCalls", "read_json_calls"]

_DECODER = json.JSONDecoder(strict=False, parse_constant=no_constant)
_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_NEXT = re.compile(r"\s*[\[{]")
"""Another value in the same tag."""


@dataclass(frozen=True, slots=True)
class TaggedJsonCalls:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, a list in place of the object,
    several in one tag, or several tags. The last tag may be missing: the model's end stands for it.

    `keyed`: a call is `{NAME: {...}}`. `outer`: the tags around all of them.
    """

    name: str
    begins: tuple[str, ...]
    ends: tuple[str, ...] = ()
    clues: tuple[str, ...] = ()
    keyed: bool = False
    outer: tuple[str, ...] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        """See `CallFormat.tags`."""
        whole = self.begins + self.ends + self.outer
        return (*whole, *(part for tag in whole for part in re.findall(r"<\|\w+\|>", tag)))

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return any(clue in template for clue in self.clues or self.begins)

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        begin = _any_of(self.begins, marks)
        end = re.compile(rf"\s*(?:{_any_of(self.ends, marks).pattern})" if self.ends else r"(?!)")
        said: list[str] = []
        calls: list[Call] = []
        at = 0
        while (found := begin.search(answer, at)) is not None:
            said.append(answer[at : found.start()])
            at, more = found.end(), True
            while more:
                read = _value(answer, at)
                made = None if read is None else self._made(read[0], marks)
                if read is None or made is None:
                    return None
                calls += made
                closed = end.match(answer, read[1])
                at = closed.end() if closed else read[1]
                more = not closed and _NEXT.match(answer, at) is not None
        text = "".join([*said, answer[at:]])
        for tag in self.outer:
            text = text.replace(marks.written(tag), "")
        return Calls(text.strip(), tuple(calls)) if calls else None

    def _made(self, value: Any, marks: Marks) -> list[Call] | None:
        if not self.keyed:
            return _calls(value, marks)
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, dict) for item in items):
            return None
        pairs = [pair for item in items for pair in item.items()]
        return _calls([{"name": name, "arguments": given} for name, given in pairs], marks)


@dataclass(frozen=True, slots=True)
class BareJsonCalls:
    """`{"name": ..., "parameters": {...}}` as a whole answer, or several, maybe with `;` between
    them, after a tag, or after text between two tags. An answer in JSON that names no tool of the
    row is an answer."""

    name: str
    tags: tuple[str, ...]
    clues: tuple[str, ...]
    around: tuple[str, ...] = ()
    """Tags around text before the calls; among `tags`."""

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return any(clue in template for clue in self.clues)

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        text, said = answer.strip(), ""
        if self.around and (spoken := self._spoken(text, marks)) is not None:
            said, text = spoken[1], text[spoken.end() :].strip()
        for tag in self.tags:
            text = text.removeprefix(marks.written(tag)).strip()
        calls: list[Call] = []
        at = 0
        while at < len(text):
            read = _value(text, at)
            made = None if read is None else _calls(read[0], marks)
            if read is None or not made or not all(tools.knows(call.name) for call in made):
                return None
            calls += made
            between = re.compile(r"\s*(;\s*|$|(?=\{))").match(text, read[1])
            if between is None:
                return None
            at = between.end()
        return Calls(said.strip(), tuple(calls)) if calls else None

    def _spoken(self, text: str, marks: Marks) -> re.Match[str] | None:
        begin, end = (re.escape(marks.written(tag)) for tag in self.around)
        return re.match(rf"{begin}(.*?){end}", text, re.DOTALL)


@dataclass(frozen=True, slots=True)
class NamedJsonCalls:
    """A name, then JSON arguments: DeepSeek's, and Kimi's, whose name is an id with it.

    `after_id`: the tag between an id and the name, where a call begins with one.
    """

    name: str
    outer: tuple[str, ...]
    begin: str
    middle: str
    end: str
    clues: tuple[str, ...]
    after_id: str = ""

    @property
    def tags(self) -> tuple[str, ...]:
        """See `CallFormat.tags`."""
        whole = (*self.outer, self.begin, self.middle, self.end, self.after_id)
        parts = [part for tag in whole for part in re.findall(r"<\|\w+\|>", tag)]
        return tuple(tag for tag in (*whole, *parts) if tag.strip())

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return any(clue in template for clue in self.clues)

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        begin, middle, end = (
            re.escape(marks.written(tag)) for tag in (self.begin, self.middle, self.end)
        )
        one = re.compile(rf"{begin}(.*?){middle}(.*?)(?:{end}|$)", re.DOTALL)
        found = list(one.finditer(answer))
        if not found or len(found) != len(re.findall(begin, answer)):
            return None
        made = [self._named(match[1].strip(), match[2].strip(), marks) for match in found]
        calls = tuple(call for call in made if call is not None)
        if len(calls) != len(made):
            return None
        rest = one.sub("", answer)
        for tag in self.outer:
            rest = rest.replace(marks.written(tag), "")
        return Calls(rest.strip(), calls)

    def _named(self, name: str, text: str, marks: Marks) -> Call | None:
        own_id, tag, after = name.partition(marks.written(self.after_id) or "\0")
        call = _named(after if tag else name, text, marks)
        return replace(call, id=own_id) if call and tag and own_id else call


@dataclass(frozen=True, slots=True)
class MistralCalls:
    """`[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, or, from 2025 on,
    `[TOOL_CALLS]NAME[CALL_ID]ID[ARGS]{...}`, of which the middle tags may be missing."""

    name: str = "mistral"
    tags: tuple[str, ...] = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return self.tags[0] in template

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        begin, call_id, args = (re.escape(marks.written(tag)) for tag in self.tags)
        said, *texts = re.split(begin, answer)
        header = re.compile(rf"\s*([\w.-]+)\s*(?:{call_id}\s*(\w+)\s*)?(?:{args})?")
        calls: list[Call] = []
        for text in texts:
            head = header.match(text)
            read = _value(text, 0 if head is None else head.end())
            if read is None or text[read[1] :].strip():
                return None
            if head is not None:
                made = _made(head[1], read[0], head[2], marks)
                calls += [] if made is None else [made]
                if made is None:
                    return None
            elif (listed := _calls(read[0], marks)) is not None:
                calls += listed
            else:
                return None
        return Calls(said.strip(), tuple(calls)) if calls else None


def read_json_calls(text: str, marks: Marks) -> tuple[Call, ...] | None:
    """Of a text that is one JSON value, whose every part is a call."""
    read = _value(text, 0)
    calls = None if read is None or text[read[1] :].strip() else _calls(read[0], marks)
    return tuple(calls) if calls else None


def _value(text: str, at: int) -> tuple[Any, int] | None:
    """The JSON value that begins here, and where it ends."""
    while at < len(text) and text[at].isspace():
        at += 1
    try:
        return _DECODER.raw_decode(text, at)
    except ValueError:
        return None


def _calls(value: Any, marks: Marks) -> list[Call] | None:
    """The calls that a JSON value holds, each of which must be one."""
    items = value if isinstance(value, list) else [value]
    calls: list[Call] = []
    for item in items:
        if isinstance(item, Mapping) and isinstance(item.get("function"), Mapping):
            item = {**item["function"], "id": item.get("id")}
        if not isinstance(item, Mapping):
            return None
        name = next((item[key] for key in _NAMES if isinstance(item.get(key), str)), None)
        given: Any = next((item[key] for key in _ARGUMENTS if item.get(key) is not None), {})
        own = item.get("id") or item.get("tool_call_id")
        call = None if name is None else _made(name, given, own, marks)
        if call is None:
            return None
        calls.append(call)
    return calls


def _made(name: str, arguments: Any, own_id: Any, marks: Marks) -> Call | None:
    """Arguments are an object, or JSON text of one."""
    if isinstance(arguments, str):
        try:
            arguments = json_value(arguments) if arguments.strip() else {}
        except ValueError:
            return None
    if not isinstance(arguments, dict) or not name.strip():
        return None
    text = marks.plain(json.dumps(arguments, ensure_ascii=False), RAW)
    return Call(name.strip(), text, own_id if isinstance(own_id, str) and own_id else None)


def _named(name: str, text: str, marks: Marks) -> Call | None:
    """DeepSeek-V3 writes `function`, a tag and the name, then JSON in a code block; Hunyuan the
    name and such a block; Kimi writes `functions.NAME:INDEX`, which is the call's id too."""
    block = re.fullmatch(r"([^\n{]*)(?:^|\n)```(?:json)?\s*(.*?)\s*(?:```)?", text, re.DOTALL)
    if block is not None and (name == "function" or not block[1]):
        name, text = block[1].strip() or name, block[2]
    indexed = re.fullmatch(r"(?:functions\.)?([^:]+):(\d+)", name)
    try:
        value = json_value(text) if text else {}
    except ValueError:
        return None
    return _made(indexed[1] if indexed else name, value, name if indexed else None, marks)


def _any_of(tags: tuple[str, ...], marks: Marks) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(marks.written(tag)) for tag in tags))
