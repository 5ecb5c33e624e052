"""Calls written in tags: each argument by itself, as text that takes its type from the tool."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from batchgen.job.answers.calls import Call, Calls, Tools, json_value
from batchgen.job.answers.marks import RAW, Marks

__all__ = [
    "CODER",
    "DSML",
    "GLM",
    "HUNYUAN",
    "HUNYUAN_PREVIEW",
    "KIMI_K3",
    "LONGCAT",
    "MINICPM",
    "MINIMAX",
    "MUSE",
    "SEED",
    "TaggedCalls",
]

_SAID_TO_BE_TEXT = ("true", "string")


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """`outer`: the tags around one call or several, of which a model may leave the last out.

    `call` finds a call with its `name` and `body`, `argument` the `key`s and `value`s of a body (or
    `quoted` ones); an argument with `text` says itself whether it is a string. Both are written
    with plain tags.
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
    header: str = r"(?!)"
    """What of a call's turn stands before it, with plain tags."""

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
        header = _marked(self.header, self.tags, marks)
        said = re.sub(f"{outer}|{header}", "", one.sub("", answer))
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
            key, quoted = one["key"].strip(), one.groupdict().get("quoted")
            text = marks.plain(one["value"] if quoted is None else quoted, RAW)
            text = text.removeprefix("\n").removesuffix("\n")
            says = one.groupdict().get("text")
            if says is None:
                arguments[key] = tools.value(name, key, text)
            else:
                arguments[key] = text if says in _SAID_TO_BE_TEXT else _json_or_text(text)
        return Call(name, json.dumps(arguments, ensure_ascii=False))


def _json_or_text(text: str) -> object:
    try:
        return json_value(text)
    except ValueError:
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


def _keyed(name: str, front: str) -> TaggedCalls:
    """`front`: what the names of its tags begin with."""
    call, key, value = (f"{front}{tag}>" for tag in ("tool_call", "arg_key", "arg_value"))
    return TaggedCalls(
        name,
        (f"<{call}", f"</{call}"),
        rf"<{call}(?P<name>[^\n<\ufdd0{{]+)(?P<body>.*?)</{call}",
        rf"<{key}(?P<key>.*?)</{key}\s*<{value}(?P<value>.*?)</{value}",
        rf"<{call}",
        (f"<{key}",),
        tuple(f"<{close}{tag}" for tag in (call, key, value) for close in ("", "/")),
    )


GLM = _keyed("glm45", "")
LONGCAT = _keyed("longcat2", "longcat_")
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
MUSE = TaggedCalls(
    "muse_glimmer",
    ("<atem:function_calls>", "</atem:function_calls>"),
    r"""<atem:invoke name="(?P<name>[^">\n]+)">(?P<body>.*?)</atem:invoke>""",
    r"""<atem:parameter name="(?P<key>[^">\n]+)">(?P<value>.*?)</atem:parameter>""",
    r"<atem:invoke ",
    ("<atem:invoke ",),
    ("<atem:function_calls>", "</atem:function_calls>", "<|message|>", "<|start|>", "<|eom|>"),
    header=r"(?:<|eom|>)?(?:<|start|>)?(?:assistant)? ?to=[\w.-]+<|message|>",
)
MINICPM = TaggedCalls(
    "minicpm5",
    ("<tool_sep>",),
    r"""<function name="(?P<name>[^">\n]+)">(?P<body>.*?)</function>""",
    r"""<param name="(?P<key>[^">\n]+)">"""
    r"""(?:<!\[CDATA\[(?P<quoted>.*?)\]\]>|(?P<value>.*?))</param>""",
    r"<function name=",
    ("<function name=", "<param name="),
    ("<tool_sep>",),
)


def _hunyuan(name: str, end: str, clues: tuple[str, ...]) -> TaggedCalls:
    """`end`: how its tags end."""
    return TaggedCalls(
        name,
        (f"<tool_calls{end}", f"</tool_calls{end}"),
        rf"<tool_call{end}(?P<name>[^\n<\ufdd0]+)<tool_sep{end}(?P<body>.*?)</tool_call{end}",
        rf"<arg_key{end}(?P<key>.*?)</arg_key{end}\s*<arg_value{end}(?P<value>.*?)</arg_value{end}",
        rf"<tool_call{end}",
        clues,
        tuple(
            f"<{close}{tag}{end}"
            for tag in ("tool_calls", "tool_call", "tool_sep", "arg_key", "arg_value")
            for close in ("", "/")
        ),
    )


HUNYUAN = _hunyuan("hy_v3", ":opensource>", ("<tool_sep{}>", "<arg_key{}>"))
HUNYUAN_PREVIEW = _hunyuan("hy_v3_preview", ">", ("<tool_sep>", "<arg_key>"))
_BETWEEN = r"[^<\ufdd0]*"
KIMI_K3 = TaggedCalls(
    "kimi_k3",
    tuple(
        f"<|{way}|>{name}<|sep|>"
        for name in ("tools", "response", "message")
        for way in ("open", "close")
    ),
    rf"""<|open|>call tool="(?P<name>[^"]+)"{_BETWEEN}<|sep|>(?P<body>.*?)<|close|>call<|sep|>""",
    r"""<|open|>argument key="(?P<key>[^"]+)" type="(?P<text>\w+)"<|sep|>(?P<value>.*?)"""
    r"""<|close|>argument<|sep|>""",
    r"<|open|>call ",
    ("<|open|>", "<|sep|>"),
    ("<|open|>", "<|close|>", "<|sep|>"),
)
