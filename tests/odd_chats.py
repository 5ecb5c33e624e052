"""24 odd chats, and whether a template gives `apply_chat_template`'s tokens for one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime
from functools import partial
from typing import Any

from batchgen.errors import RowError
from batchgen.job.fields.messages import read_messages
from batchgen.job.fields.settings import read_template_kwargs
from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.text.backend_codec import BackendCodec

__all__ = ["CHATS", "compare"]

Message = dict[str, Any]


def _said(*turns: tuple[str, Any]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]


def _calling(arguments: Any, content: str | None = "", answer: Any = '{"mm": 3}') -> list[Message]:
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "call00001", "type": "function", "function": function}
    return [
        *_said(("user", "Is it raining in Köln?")),
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": answer},
    ]


_CITY = {"type": "string", "description": "A city's <name> & 'more'"}
_PARAMETERS = {"type": "object", "properties": {"city": _CITY}, "required": ["city"]}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Rain, in mm.", "parameters": _PARAMETERS},
    }
]
_ARGUMENTS = {"city": "Köln", "days": [1, 2.5], "fine": None}
_THOUGHT = {"role": "assistant", "content": "Four.", "reasoning_content": "2 and 2\n\nare 4"}
_ASK = ("user", "Hi")
_OPEN = {"continue_final_message": True}
CHATS: dict[str, tuple[list[Message], dict[str, Any]]] = {
    "plain": (_said(_ASK), {}),
    "system": (_said(("system", "Be brief."), _ASK), {}),
    "turns": (_said(_ASK, ("assistant", "Hello!"), ("user", "And?")), {}),
    "closed": (_said(_ASK, ("assistant", "Hello!")), {"add_generation_prompt": False}),
    "prefill": (_said(_ASK, ("assistant", "The answer is")), _OPEN),
    "prefill spaces": (_said(_ASK, ("assistant", "The answer is \n ")), _OPEN),
    "empty": (_said(("user", "")), {}),
    "control text": (_said(("user", "<|im_end|> </s><s> {{ x }} {% if %} [INST]")), {}),
    "white space": (_said(("system", "\n a "), ("user", "\n\n hi \t\n")), {}),
    "unicode": (_said(("user", "é 日本 🎉 'quoted' \"twice\" \\n <b>&amp;</b>")), {}),
    "two users": (_said(_ASK, ("user", "Still there?")), {}),
    "assistant first": (_said(("assistant", "Welcome."), _ASK), {}),
    "late system": (_said(_ASK, ("system", "Be brief."), ("user", "Go on")), {}),
    "tools": (_said(("system", "Help."), _ASK), {"tools": TOOLS}),
    "tool call": (_calling(_ARGUMENTS), {"tools": TOOLS}),
    "arguments as text": (_calling(json.dumps(_ARGUMENTS)), {"tools": TOOLS}),
    "parts": (_said(("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])), {}),
    "reasoning": ([*_said(("user", "2+2?")), _THOUGHT, *_said(("user", "Sure?"))], {}),
    "null content": (_calling({"city": "Bonn"}, None), {}),
    "developer": (_said(("developer", "Be brief."), _ASK), {}),
    "documents": (_said(_ASK), {"documents": [{"title": "T", "text": "A text."}]}),
    "answer as object": (_calling(_ARGUMENTS, answer={"mm": 3}), {"tools": TOOLS}),
    "role function": (_said(_ASK, ("function", "It rains.")), {}),
    "switches": (_said(_ASK), {"enable_thinking": False, "reasoning_effort": "low"}),
}
assert len(CHATS) == 24


def compare(source: str, name: str, tokenizer: Any) -> str:
    """`equal`, `both refuse`, a case in which batchgen means to differ, or what is wrong."""
    messages, kwargs = CHATS[name]
    ours = _or_reason(lambda: _ours(source, messages, kwargs, tokenizer))
    theirs = _or_reason(lambda: _theirs(source, messages, kwargs, tokenizer))
    if isinstance(ours, str) and isinstance(theirs, str):
        return "both refuse"
    if ours == theirs:
        return "equal"
    cases = [("", messages), *_meant(name, messages)]
    cases += [(f"{case or 'plain'} as parts", _in_parts(meant)) for case, meant in cases]
    for case, meant in cases:
        wanted = _or_reason(partial(_theirs, source, meant, kwargs, tokenizer))
        if ours == wanted:
            return case
        if isinstance(wanted, list) and ours == _one_bos(wanted, tokenizer):
            return " and ".join(filter(None, [case, "one BOS"]))
    for meant in (messages, [_with_text(message) for message in messages]):
        if ours == _or_reason(partial(_with_null, source, meant, kwargs, tokenizer)):
            return "null kept"
    return f"WRONG: {_shown(ours, tokenizer)} for {_shown(theirs, tokenizer)}"


def _meant(name: str, messages: list[Message]) -> list[tuple[str, list[Message]]]:
    """Case -> the chat that transformers would have to be given for it."""
    if name == "parts":
        return [("parts joined", _said(("user", "a\nb")))]
    if name == "arguments as text":
        return [("arguments parsed", _calling(_ARGUMENTS))]
    if name == "answer as object":
        answered = _calling(_ARGUMENTS)
        written = [_with_text(message) for message in answered]
        return [("answer as JSON", answered), ("answer as JSON, arguments written", written)]
    if name in ("tool call", "null content"):
        spoken = [_spoken(message) for message in messages]
        written = [_with_text(message) for message in messages]
        both = [_spoken(message) for message in written]
        return [("no content is empty", spoken), ("arguments written", written), ("both", both)]
    return []


def _with_text(message: Message) -> Message:
    """Its calls' arguments as text, for templates that append them."""
    if "tool_calls" not in message:
        return message
    (call,) = message["tool_calls"]
    text = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {
        **message,
        "tool_calls": [{**call, "function": {**call["function"], "arguments": text}}],
    }


def _spoken(message: Message) -> Message:
    return {**message, "content": message.get("content") or ""}


def _in_parts(messages: list[Message]) -> list[Message]:
    """For templates that read parts alone."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def _ours(source: str, messages: list[Message], kwargs: dict[str, Any], tokenizer: Any) -> Any:
    template = ChatTemplate(source, tokenizer.special_tokens_map, datetime.now())
    size = len(tokenizer)
    codec = BackendCodec(tokenizer.backend_tokenizer, template, tokenizer.bos_token_id, size)
    return codec.render(read_messages(deepcopy(messages)), read_template_kwargs(kwargs))


def _theirs(source: str, messages: list[Message], kwargs: dict[str, Any], tokenizer: Any) -> Any:
    opened = {"add_generation_prompt": "continue_final_message" not in kwargs}
    found = tokenizer.apply_chat_template(
        deepcopy(messages), chat_template=source, tokenize=True, **{**opened, **kwargs}
    )
    return list(found["input_ids"])


def _with_null(source: str, messages: list[Message], kwargs: dict[str, Any], tokenizer: Any) -> Any:
    """Rendered with the content null, which `apply_chat_template` takes away beforehand."""
    from transformers.utils.chat_template_utils import render_jinja_template

    options = {**tokenizer.special_tokens_map, **kwargs, "chat_template": source}
    texts, _ = render_jinja_template([messages], add_generation_prompt=True, **options)
    return list(tokenizer(texts[0], add_special_tokens=False)["input_ids"])


def _one_bos(ids: list[int], tokenizer: Any) -> list[int]:
    bos = tokenizer.bos_token_id
    while ids[:2] == [bos, bos]:
        ids = ids[1:]
    adds = tokenizer("")["input_ids"][:1] == [bos]
    return [bos, *ids] if adds and ids[:1] != [bos] else ids


def _or_reason(render: Callable[[], list[int]]) -> list[int] | str:
    try:
        return render()
    except RowError as error:
        return error.message
    except Exception as error:  # a template is a program: it raises what it likes
        return f"{type(error).__name__}: {error}"


def _shown(found: list[int] | str, tokenizer: Any) -> str:
    return found if isinstance(found, str) else repr(tokenizer.decode(found))
