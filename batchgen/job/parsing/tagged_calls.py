"""Calls written in tags: each argument by itself, as text that takes its type from the tool."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from batchgen.job.parsing.calls import Call, Calls, Tools, json_value
from batchgen.job.parsing.marks import Marks, Wish

__all__ = ["CODER", "DSML", "GLM", "MINIMAX", "SEED", "TaggedCalls"]

_RAW = Wish(skip_special_tokens=False)


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """`outer`: the tags around one call or several, of which a model may leave the last out.

    `call` finds a call with its `name` and `body`, `argument` the `key`s and `value`s of a body; an
    argument with `text` says itself whether it is a string. Both are written with plain tags.
    """

    name: str
    outer: tuple[str, ...]
    call: str
    argument: str
    begin: str
    """What every call begins with."""
    clues: tuple[str, ...]
    tags: tuple[str, ...]
    unclosed: tuple[str, str] = ("", "")
    """What begins and ends an argument, where its end may be missing before the next one."""

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return all(clue in template for clue in self.clues)

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        outer = "|".join(re.escape(marks.written(tag)) for tag in self.outer)
        one = re.compile(_marked(self.call, self.tags, marks), re.DOTALL)
        argument = re.compile(_marked(self.argument, self.tags, marks), re.DOTALL)
        found = list(one.finditer(answer))
        begun = re.findall(_marked(self.begin, self.tags, marks), answer)
        if not found or len(found) != len(begun):
            return None
        calls: list[Call] = []
        for match in found:
            body = self._closed(match["body"])
            if not match["name"].strip() or argument.sub("", body).strip():
                return None  # something that is no argument: it was cut, or is no call
            calls.append(self._call(match["name"], argument.finditer(body), marks, tools))
        said = re.sub(outer, "", one.sub("", answer))
        return Calls(said.strip(), tuple(calls))

    def _closed(self, body: str) -> str:
        """The arguments of a call, each with its end."""
        begin, end = self.unclosed
        if not begin or body.count(begin) == body.count(end):
            return body
        first, *others = body.split(begin)
        return first + "".join(begin + one + ("" if end in one else end) for one in others)

    def _call(self, name: str, found: Iterable[re.Match[str]], marks: Marks, tools: Tools) -> Call:
        name = name.strip()
        arguments = {}
        for one in found:
            key, text = one["key"].strip(), marks.plain(one["value"], _RAW)
            text = text.removeprefix("\n").removesuffix("\n")
            says = one.groupdict().get("text")
            if says is None:
                arguments[key] = tools.value(name, key, text)
            else:
                arguments[key] = text if says == "true" else _json_or_text(text)
        return Call(name, json.dumps(arguments, ensure_ascii=False))


def _json_or_text(text: str) -> object:
    try:
        return json_value(text)
    except (ValueError, RecursionError):
        return text


def _marked(pattern: str, tags: tuple[str, ...], marks: Marks) -> str:
    """A pattern with its tags as marked text has them."""
    for tag in tags:
        pattern = pattern.replace(tag, re.escape(marks.written(tag)))
    return pattern


_FUNCTION = r"<function=(?P<name>[^>\n]+)>(?P<body>.*?)</function>"
_PARAMETER = r"<parameter=(?P<key>[^>\n]+)>(?P<value>.*?)</parameter>"
CODER = TaggedCalls(
    "qwen3_coder",
    ("<tool_call>", "</tool_call>"),
    _FUNCTION,
    _PARAMETER,
    r"<function=",
    ("<function=", "<parameter="),
    ("<tool_call>", "</tool_call>"),
    ("<parameter=", "</parameter>"),
)
SEED = TaggedCalls(
    "seed_oss",
    ("<seed:tool_call>", "</seed:tool_call>"),
    _FUNCTION,
    _PARAMETER,
    r"<function=",
    ("<seed:tool_call>",),
    ("<seed:tool_call>", "</seed:tool_call>"),
)
GLM = TaggedCalls(
    "glm45",
    ("<tool_call>", "</tool_call>"),
    r"<tool_call>(?P<name>[^\n<\ufdd0{]+)(?P<body>.*?)</tool_call>",
    r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>",
    r"<tool_call>",
    ("<arg_key>",),
    ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)
MINIMAX = TaggedCalls(
    "minimax_m2",
    ("<minimax:tool_call>", "</minimax:tool_call>"),
    r"""<invoke name="?(?P<name>[^">\n]+)"?>(?P<body>.*?)</invoke>""",
    r"""<parameter name="?(?P<key>[^">\n]+)"?>(?P<value>.*?)</parameter>""",
    r"<invoke ",
    ("<minimax:tool_call>",),
    ("<minimax:tool_call>", "</minimax:tool_call>"),
)
_BAR = "\N{FULLWIDTH VERTICAL LINE}"
_MARK = f"{_BAR}DSML{_BAR}"
DSML = TaggedCalls(
    "deepseek_v32",
    tuple(
        f"<{close}{_MARK}{name}>"
        for name in ("function_calls", "tool_calls")
        for close in ("", "/")
    ),
    rf"""<{_MARK}invoke name="(?P<name>[^"]+)">(?P<body>.*?)</{_MARK}invoke>""",
    rf"""<{_MARK}parameter name="(?P<key>[^"]+)" string="(?P<text>true|false)">"""
    rf"""(?P<value>.*?)</{_MARK}parameter>""",
    rf"<{_MARK}invoke ",
    ("DSML",),
    (_MARK,),
)
