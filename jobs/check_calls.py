"""Are the calls and the thinking that a chat template writes read as they were?

    python jobs/check_calls.py                      # the packages below
    python jobs/check_calls.py PACKAGE==VERSION ...  # others, or folders with .jinja files

Each template writes an assistant's turns with calls of tools; what it wrote is given to the parsers
that the template itself chooses, as tokens and as text. Told of each template: read alike; calls
are not written, or only in a form that no parser is named for (they stay in the text). Exit code 1
where something is read otherwise than it was.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from answer_tokenizers import tag_codec  # noqa: E402
from check_templates import found_in  # noqa: E402

from batchgen.errors import RowError  # noqa: E402
from batchgen.job.answers.call_formats import call_format  # noqa: E402
from batchgen.job.answers.reading import Answer, AnswerParsers  # noqa: E402
from batchgen.job.answers.thinking_formats import thinking_format  # noqa: E402
from batchgen.job.rows import InputRow  # noqa: E402
from batchgen.job.templates.chat_template import ChatTemplate  # noqa: E402

PACKAGES = ("trl==1.16.0", "axolotl==0.19.0", "llama-cpp-python==0.3.36")
_TOKEN = re.compile(
    r"<\|?[/\w:+-]+\|>|<\|[^\s<>]+>|<\uff5c[^\s<>]+>|\[/?[A-Z_]{3,}\]|</?s>|\[e~\[|<end_of_\w+>"
)
"""What is likely a special token of the model."""
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_Call = tuple[str, dict[str, Any]]
_TEXT = {"type": "string"}
_WEATHER = {
    "type": "object",
    "properties": {
        "city": _TEXT,
        "days": {"type": "integer"},
        "fine": {"type": "boolean"},
        "near": {"type": "array", "items": _TEXT},
        "where": {"type": "object", "properties": {"lat": {"type": "number"}}},
    },
    "required": ["city"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}
    for name, parameters in (
        ("get_weather", _WEATHER),
        ("ping", {"type": "object", "properties": {}}),
    )
]
_HISTORY = [{"role": "user", "content": "How is the weather?"}]
_ODD = {"city": 'Köln "Süd"\nline <b>2</b> \\ {x}', "near": ["a, b", "[c]"], "where": {"lat": -1.5}}
_ONE = ("get_weather", {"city": "Paris", "days": 3, "fine": True})
_TWO = ("get_weather", {"city": "Rome", "near": ["x"]})
TURNS: dict[str, tuple[str, str, list[_Call]]] = {
    "one call": ("", "", [_ONE]),
    "odd text": ("", "", [("get_weather", _ODD)]),
    "no arguments": ("", "", [("ping", {})]),
    "two calls": ("", "", [_ONE, _TWO]),
    "with a word": ("", "Let me look.", [_ONE]),
    "thought": ("The user asks.\nI look.", "", [_ONE]),
    "all": ("The user asks.", "Let me look.", [_ONE, _TWO]),
    "thought and answer": ("The user asks.", "It is fine.", []),
}
"""What an assistant thinks, says and calls."""


def main(packages: list[str]) -> int:
    with tempfile.TemporaryDirectory() as name:
        templates = [one for package in packages for one in _templates(package, Path(name))]
    names: dict[str, list[str]] = defaultdict(list)
    for text, place in {text: place for place, text in templates}.items():
        ends = {turn: check(text, turn) for turn in TURNS}
        for turn, end in ends.items():
            if end.startswith("WRONG"):
                print(f"{place}: {turn}: {end}", flush=True)
        names[_verdict(text, list(ends.values()))].append(place.rpartition("/")[2])
    for verdict, places in sorted(names.items()):
        print(f"{verdict}: {len(places)}: {' '.join(sorted(places))}")
    return int(any("WRONG" in verdict for verdict in names) or not names)


def _templates(package: str, folder: Path) -> list[tuple[str, str]]:
    if not Path(package).is_dir():
        return found_in(package, folder)
    return [(str(path), path.read_text("utf-8")) for path in Path(package).rglob("*.jinja")]


def _verdict(text: str, ends: list[str]) -> str:
    form = call_format("auto", text)
    name = "no parser" if form is None else form.name
    if any(end.startswith("WRONG") for end in ends):
        return f"{name}: WRONG"
    if "equal" in ends[:-1]:
        return name
    return f"{name}, calls not written"


def check(text: str, turn: str) -> str:
    """`equal`, what the template does not write, or what is read wrongly."""
    thought, said, calls = TURNS[turn]
    try:
        prompt, answer = _written(text, thought, said, calls)
    except RowError as error:
        return f"refused: {error.message}"
    if not _writes(answer, calls):
        return "calls not written"
    thinking = thinking_format("auto", text)
    opened = thinking is not None and prompt.rstrip().endswith(thinking.starts)
    if thinking is not None and opened and not any(end in answer for end in thinking.ends):
        return "thinking not closed"
    form = call_format("auto", text)
    if calls and form is None:
        return "no parser"
    thought, said = (one if one in answer else "" for one in (thought, said))
    if form is not None and form.name == "harmony" and calls and said:
        thought, said = f"{thought}\n{said}".strip(), ""  # its template writes it as thinking
    for as_tokens in (True, False):
        read = _read(text, prompt, answer, as_tokens)
        found = [(call["name"], json.loads(call["arguments"])) for call in _functions(read)]
        for what, wanted, seen in (
            ("calls", calls, found),
            ("reasoning", thought, (read.reasoning or "").strip()),
            ("text", said, read.completion.strip()),
        ):
            if wanted != seen:
                way = "tokens" if as_tokens else "text"
                return f"WRONG {what} as {way}: {seen!r}, not {wanted!r}, of {answer!r}"
    return "equal"


def _writes(answer: str, calls: Sequence[_Call]) -> bool:
    words = [word for name, given in calls for word in (name, given.get("city", "")[:4])]
    return all(word in answer for word in words)


def _written(text: str, thought: str, said: str, calls: Sequence[_Call]) -> tuple[str, str]:
    """The prompt of a turn and what the template makes of the turn itself, without its end."""
    template = ChatTemplate(text, {"bos_token": "<s>", "eos_token": "</s>"})
    message = _message(
        thought,
        said,
        calls,
        ids="functions.{}:{}" if "<|tool_call_argument_begin|>" in text else None,
    )
    whole = _closed(template, message)
    if not _writes(whole, calls) and not said:
        whole = _closed(template, message | {"content": None})
    end = _closed(template, {"role": "assistant", "content": "plainword"}).rpartition("plainword")[
        2
    ]
    mark = re.match(r"\s*(<[^<>]+>|\[[^\[\]]+\]|\[e~\[)", end)
    if mark is not None and (at := whole.rfind(mark[1])) >= len(whole) - len(end):
        whole = whole[:at]
    elif mark is not None:
        whole = whole[: len(whole) - len(_common_end(whole, end))]
    prompt = template.render(_HISTORY, {"tools": TOOLS})
    if whole.startswith(prompt):
        return prompt, whole[len(prompt) :]
    pairs = zip(prompt, whole, strict=False)
    common = prompt[: next((n for n, (one, other) in enumerate(pairs) if one != other), len(whole))]
    at = common.rfind("<")
    common = common if ">" in common[at:] else common[:at]
    return _as_prompted(text, prompt, common, whole[len(common) :])


def _common_end(one: str, other: str) -> str:
    """With the next turn's beginning, which some templates write in any case."""
    backwards = zip(reversed(one), reversed(other), strict=False)
    length = next((n for n, (x, y) in enumerate(backwards) if x != y), min(len(one), len(other)))
    common = one[len(one) - length :]
    return common[common.find("<") :] if "<" in common else ""


def _as_prompted(text: str, prompt: str, common: str, answer: str) -> tuple[str, str]:
    """The same where the prompt begins the thinking, or ends it, and the turn alone does not."""
    form = thinking_format("auto", text)
    if form is None:
        return common, answer
    ended = next((end for end in form.ends if answer.lstrip().startswith(end)), None)
    if ended is not None and prompt.rstrip().endswith(form.ends):
        return prompt, answer.partition(ended)[2]
    opened = prompt.rstrip().endswith(form.starts)
    if opened and not any(start in answer for start in form.starts):
        return (prompt if any(end in answer for end in form.ends) else common), answer
    return common, answer


def _closed(template: ChatTemplate, message: dict[str, Any]) -> str:
    kwargs = {"tools": TOOLS, "add_generation_prompt": False}
    return template.render([*_HISTORY, message], kwargs)


def _message(thought: str, said: str, calls: Sequence[_Call], ids: str | None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said}
    if thought:
        message |= {"reasoning_content": thought, "reasoning": thought, "thinking": thought}
    if calls:
        message["tool_calls"] = [
            {
                "id": ids.format(name, n) if ids else f"call0000{n}",
                "type": "function",
                "function": {"name": name, "arguments": given},
            }
            for n, (name, given) in enumerate(calls)
        ]
    return message


def _read(text: str, prompt: str, answer: str, as_tokens: bool) -> Answer:
    """What is read of an answer of which all tags, or only those that end turns, are tokens."""
    calls, thinking = call_format("auto", text), thinking_format("auto", text)
    own = {*(calls.tags if calls else ()), *(thinking.tags if thinking else ())}
    tags = {*_TOKEN.findall(text), "<s>", "</s>", "<\uff5chy_eos:opensource\uff5c>"}
    special, other = (tags - {*_TAGS}, _TAGS) if as_tokens else (tags - own - {*_TAGS}, ())
    codec = tag_codec(sorted(special), other)
    row = InputRow(0, "", messages=_HISTORY, template_kwargs={"tools": TOOLS})
    reading = AnswerParsers(codec, text).reading(row, prompt, [])
    ids = codec.encode_plain([answer])[0]
    return Answer(codec.decode_batch([ids])[0]) if reading is None else reading.read(ids)


def _functions(read: Answer) -> list[dict[str, Any]]:
    return [call["function"] for call in json.loads(read.tool_calls or "[]")]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or list(PACKAGES)))
