"""A conversation as a row has it, before any template.

Conversations come in several shapes, whose meaning is plain; all become OpenAI's: a list of
objects with role and content. Read here: that list, the same as JSON text, ShareGPT's from and
value, Gemini's parts, those of OpenAI's Responses API, function calls from before tool calls.
"""

from __future__ import annotations

import json
import re
from typing import Any

from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown
from batchgen.job.templates.chat_shape import is_result

__all__ = ["invalid", "is_conversation", "read_messages"]

_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""ShareGPT's names of who speaks -> roles."""
_BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "redacted_thinking"})
"""Parts of Anthropic's messages that are turns, or fields of one, for others."""
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_MEDIA = ("audio", "audios", "image", "images", "video", "videos")
"""Keys under which OpenAI, Ollama and training tools keep what is no text of a message."""
_PYTHON = re.compile(r"\s*\[\s*\{\s*'")
"""How a list of objects begins that pandas wrote into a table."""
_SPOKEN = ("reasoning_content", "reasoning", "thinking")
_SPEAKERS_OF_TEXT = ("system", "developer", "user", "assistant")
"""Roles whose content is never an object: those of others give results."""
_ENVELOPE = frozenset({"role", "name", "content", "id", "index", "weight", "tool_call_id"})
"""Keys beside which a turn without content says nothing."""


def read_messages(value: Any) -> list[dict[str, Any]]:
    """A conversation in OpenAI's form; content is a string, a list of text parts or, of results of
    tools, an object or a list of them, as templates may read it.

    RowError: INVALID_ROW for another shape or a part that is no text, EMPTY_PROMPT for no message.
    """
    if isinstance(value, str):
        value = _from_json(value)
    if not isinstance(value, list):
        raise invalid("messages must be a list of objects with role and content")
    if not value:
        raise RowError(ErrorCode.EMPTY_PROMPT, "messages is an empty list")
    messages = [
        _read_message(turn, f"messages[{n}]")
        for n, message in enumerate(value)
        for turn in _turns_of(message)
    ]
    return _with_tool_role(messages)


def is_conversation(value: Any) -> bool:
    """Whether a value in a column of prompts is a list of messages."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and not first.keys().isdisjoint(("role", "from", "parts"))


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        written = ", but one as Python writes it" if _PYTHON.match(text) else ""
        raise invalid(f"messages is text that is no JSON list of messages{written}") from None


def _read_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise invalid(f"{where} must be an object with role and content")
    if "from" in message and message.get("role") is None:
        message = _from_sharegpt(message, where)
    if "parts" in message and message.get("content") is None:
        message = _from_gemini(message, where)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise invalid(f"{where}.role must be a non-empty string")
    plain: dict[str, Any] = {key: value for key, value in message.items() if value is not None}
    if medium := next((name for name in _MEDIA if plain.get(name)), None):
        raise invalid(f"{where}.{medium} is not served: text is, as content")
    if "tool_calls" in plain:
        plain["tool_calls"] = _read_calls(plain["tool_calls"], where)
    if plain.get("tool_calls") == []:
        del plain["tool_calls"]
    if "function_call" in plain:
        plain = _with_tool_calls(plain)
    if role not in _SPEAKERS_OF_TEXT and is_result(content):
        return plain
    if isinstance(content, list):
        plain["content"] = [_read_part(part, where) for part in content]
    elif content is None:
        _fill_content(plain, where)
    elif not isinstance(content, str):
        raise invalid(f"{where}.content must be a string or a list of text parts")
    return plain


def _read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of calls, or JSON text of one, as tables have it."""
    calls = value
    if isinstance(value, str):
        try:
            calls = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            calls = None
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise invalid(f"{where}.tool_calls must be a list of calls, not {shown(value)}")
    return [_whole_call(call) for call in calls]


def _whole_call(call: dict[str, Any]) -> dict[str, Any]:
    """A call in OpenAI's form: name and arguments in `function`; none is an empty object."""
    if "function" not in call and isinstance(call.get("name"), str):
        inner = {name: call[name] for name in ("name", "arguments") if name in call}
        rest = {name: value for name, value in call.items() if name not in inner}
        call = {"type": "function", **rest, "function": inner}
    function = call.get("function")
    if not isinstance(function, dict):
        return call
    given = function.get("arguments")
    if given is not None and not (isinstance(given, str) and not given.strip()):
        return call
    return {**call, "function": {**function, "arguments": {}}}


def _fill_content(message: dict[str, Any], where: str) -> None:
    """A turn may have no content: it calls tools, it thinks, it refuses, or it says under another
    key what its template reads."""
    if message.get("tool_calls"):
        return
    if isinstance(message.get("refusal"), str):
        message["content"] = message.pop("refusal")
    elif any(isinstance(message.get(name), str) for name in _SPOKEN):
        message["content"] = ""
    elif message["role"] == "user" or message.keys() <= _ENVELOPE:
        raise invalid(f"{where}.content must be a string or a list of text parts")


def _read_part(part: Any, where: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else shown(part)
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS:
        raise invalid(f"{where}.content may hold text parts only, not {shown(kind)}")
    if not isinstance(text, str):
        raise invalid(f"{where}.content has a {kind} part without its text")
    if medium := next((name for name in (*_MEDIA, "image_url") if part.get(name)), None):
        raise invalid(f"{where}.content has a {kind} part with {medium}: text is read alone")
    return {"type": "text", "text": text}


def _from_sharegpt(message: dict[str, Any], where: str) -> dict[str, Any]:
    speaker = message["from"]
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise invalid(f"{where}.from must be one of {', '.join(_SPEAKERS)}, not {shown(speaker)}")
    rest = {key: value for key, value in message.items() if key not in ("from", "value", "role")}
    value = message.get("value")
    if speaker != "function_call":
        return {"role": _SPEAKERS[speaker], **rest, "content": value}
    call = _from_json(value) if isinstance(value, str) else value
    if not isinstance(call, dict) or "name" not in call:
        raise invalid(f"{where}.value must be a call with name and arguments")
    return {"role": "assistant", "content": None, "function_call": call}


def _turns_of(message: Any) -> list[Any]:
    """The message; of one that holds Anthropic's blocks those that say the same: calls in the
    assistant's turn, a turn for each result before what else the user says."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return [message]
    kinds = [str(part.get("type")) if isinstance(part, dict) else "" for part in content]
    if _BLOCKS.isdisjoint(kinds):
        return [message]
    rest: list[Any] = []
    calls: list[Any] = []
    thoughts: list[str] = []
    results: list[Any] = []
    for kind, part in zip(kinds, content, strict=True):
        if kind == "tool_use" and isinstance(part.get("name"), str):
            given = json.dumps(part.get("input") or {}, ensure_ascii=False, default=str)
            function = {"name": part["name"], "arguments": given}
            calls.append({"id": part.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            said = "" if part.get("content") is None else part["content"]
            results.append(
                {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": said}
            )
        elif kind == "thinking" and isinstance(part.get("thinking"), str):
            thoughts.append(part["thinking"])
        elif kind != "redacted_thinking":
            rest.append(part)
    turn = {**message, "content": rest or None}
    if calls:
        turn["tool_calls"] = calls
    if thoughts:
        turn["reasoning_content"] = "\n".join(thoughts)
    return [*results, *([turn] if rest or calls or thoughts or not results else [])]


def _from_gemini(message: dict[str, Any], where: str) -> dict[str, Any]:
    """One of Gemini's `contents`: parts that have nothing but a text, of the user or the model."""
    given, role = message["parts"], message.get("role") or "user"
    parts = given if isinstance(given, list) else [given]
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str) or len(part) > 1:
            raise invalid(f"{where}.parts may hold texts only, not {shown(part)}")
    texts = [{"type": "text", "text": part["text"]} for part in parts]
    rest = {key: value for key, value in message.items() if key not in ("parts", "content")}
    return {**rest, "role": "assistant" if role == "model" else role, "content": texts}


def _with_tool_calls(message: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's first form of a call as templates read it now."""
    call = message.pop("function_call", None)
    if call is None or message.get("tool_calls"):
        return message
    return {**message, "tool_calls": _read_calls([{"type": "function", "function": call}], "")}


def _with_tool_role(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The role `function` is OpenAI's first name of `tool` where it answers a call; elsewhere it is
    a role of the template's own."""
    called = False
    for message in messages:
        called = called or "tool_calls" in message
        if called and message["role"] == "function":
            message["role"] = "tool"
    return messages


def invalid(reason: str) -> RowError:
    """For content of another shape."""
    return RowError(ErrorCode.INVALID_ROW, reason)
