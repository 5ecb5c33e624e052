"""Chats in the form that one template reads: text parts or strings, tool arguments or their text.

What a template does with a form is found by rendering a probe in it, never by reading its source:
templates test types in too many ways. A probe is rendered once for each role that needs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchgen.errors import ErrorCode, RowError

__all__ = ["ENDINGS", "REASONING_KEYS", "ChatShape", "is_result", "joined_text", "with_system"]

ENDINGS = ("continue_final_message", "add_generation_prompt")
"""How a chat is to end; they exclude each other, and who gives one knows how it ends."""
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_WORD, _KEY = "probeword", "probekey"
_RENDERED_AS_DATA = ("'type':", '"type":', "'text':", '"text":')
_Message = Mapping[str, Any]


def with_system(messages: Sequence[_Message], system: str | None) -> list[dict[str, Any]]:
    """The messages with `--system` in front, unless they begin with a system message."""
    chat = [dict(message) for message in messages]
    begins = chat[0].get("role") if chat else None
    if system is None or begins in ("system", "developer"):
        return chat
    return [{"role": "system", "content": system}, *chat]


def is_result(content: Any) -> bool:
    """Whether a tool's answer is an object, or a list of objects that are no parts of text."""
    if isinstance(content, list):
        return bool(content) and all(
            isinstance(item, Mapping) and "type" not in item for item in content
        )
    return isinstance(content, Mapping)


class ChatShape:
    """`render` takes plain messages to the template's text, and may raise whatever it likes."""

    def __init__(self, render: Callable[[list[dict[str, Any]]], str]) -> None:
        self._render = render
        self._takes_parts: dict[str, bool] = {}
        self._takes_text: dict[str, bool] = {}
        self._takes_results: dict[tuple[str, bool], bool] = {}
        self._takes_objects: bool | None = None
        self._no_content: dict[str, Any] | None = None

    def fitted(self, messages: Sequence[_Message]) -> list[dict[str, Any]]:
        """The messages as the template wants them: without null values, reasoning under its
        standard name. RowError TEMPLATE_ERROR for a part that is no text."""
        return [self._fitted(message) for message in messages]

    def _fitted(self, message: _Message) -> dict[str, Any]:
        plain = {key: value for key, value in message.items() if value is not None}
        reasoning = next((plain[key] for key in REASONING_KEYS if key in plain), None)
        if reasoning is not None:
            plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
        content = plain.get("content")
        if content is not None:
            plain["content"] = self._content(str(plain.get("role")), content)
        if isinstance(plain.get("tool_calls"), list):
            plain["tool_calls"] = [self._tool_call(call) for call in plain["tool_calls"]]
            if content is None:
                plain |= self._without_content()
        return plain

    def _content(self, role: str, content: Any) -> Any:
        if is_result(content):
            content = self._result(role, content)
        elif isinstance(content, list) and not self._reads_parts(role):
            content = joined_text(content)
        if isinstance(content, str) and not self._reads_text(role):
            return _parts(content)
        return content

    def _without_content(self) -> dict[str, Any]:
        """The content of a turn that only calls: null, as OpenAI has it, unless the template fails
        on it, shows it, or leaves the calls out; then none, else empty."""
        if self._no_content is None:
            empty: Any = "" if self._reads_text("assistant") else _parts("")
            ways: list[dict[str, Any]] = [{"content": None}, {}, {"content": empty}]
            texts = [self._call_with(way) for way in ways]
            nulls = [text.count("None") + text.count("null") for text in texts]
            shows = [_WORD in texts[i] and nulls[i] <= nulls[-1] for i in range(len(ways))]
            self._no_content = ways[shows.index(True)] if any(shows) else ways[-1]
        return self._no_content

    def _call_with(self, way: Mapping[str, Any]) -> str:
        call = _called({_KEY: _WORD} if self._reads_objects() else json.dumps({_KEY: _WORD}))
        return self._try(_around({"role": "assistant", "tool_calls": call["tool_calls"], **way}))

    def _tool_call(self, call: Any) -> Any:
        """OpenAI writes arguments as JSON text; templates that encode them want the object, and
        those that append them the text."""
        function = call.get("function") if isinstance(call, Mapping) else None
        holder = function if isinstance(function, Mapping) else call
        given = holder.get("arguments") if isinstance(holder, Mapping) else None
        if isinstance(given, str) == (not self._reads_objects()):
            return call
        arguments: Any = _json_object(given) if isinstance(given, str) else _json_text(given)
        if arguments is None:
            return call
        filled = {**holder, "arguments": arguments}
        return filled if holder is call else {**call, "function": filled}

    def _result(self, role: str, content: Any) -> Any:
        """An answer as it is for a template that writes such ones as JSON or in its own way, else
        its JSON text."""
        kind = (role, isinstance(content, list))
        if kind not in self._takes_results:
            probe: Any = {_KEY: _WORD}
            text = self._try(_around({"role": role, "content": [probe] if kind[1] else probe}))
            self._takes_results[kind] = _WORD in text and f"{{'{_KEY}'" not in text
        return content if self._takes_results[kind] else json.dumps(content, ensure_ascii=False)

    def _reads_parts(self, role: str) -> bool:
        if role not in self._takes_parts:
            self._takes_parts[role] = self._shows_parts(role)
        return self._takes_parts[role]

    def _shows_parts(self, role: str) -> bool:
        chat = _around({"role": role, "content": _parts(_WORD)})
        text = self._try(chat) or self._try([_in_parts(message) for message in chat])
        return _WORD in text and not any(mark in text for mark in _RENDERED_AS_DATA)

    def _reads_text(self, role: str) -> bool:
        """Whether a text comes out, or parts would not either: templates of models that see images
        may read parts alone."""
        if role not in self._takes_text:
            text = self._try(_around({"role": role, "content": _WORD}))
            self._takes_text[role] = _WORD in text or not self._reads_parts(role)
        return self._takes_text[role]

    def _reads_objects(self) -> bool:
        """Whether an object comes out as JSON, or as the template's own writing of its items: not
        refused (text is what it appends to), and not as Python writes it."""
        if self._takes_objects is None:
            text = self._try(_around({"role": "assistant", **_called({_KEY: _WORD})}))
            self._takes_objects = _WORD in text and f"{{'{_KEY}'" not in text
            if not text:
                as_text = _called(json.dumps({_KEY: _WORD}))
                self._takes_objects = not self._try(_around({"role": "assistant", **as_text}))
        return self._takes_objects

    def _try(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self._render(messages)
        except Exception:  # a template is a program: whatever it raises, it does not take this
            return ""


def _called(arguments: Any) -> dict[str, Any]:
    function = {"name": "probe", "arguments": arguments}
    call = {"id": "probe0001", "type": "function", "function": function}
    return {"content": "", "tool_calls": [call]}


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _in_parts(message: _Message) -> dict[str, Any]:
    content = message["content"]
    return {**message, "content": _parts(content) if isinstance(content, str) else content}


def _around(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation in which a message of this role may stand."""
    ask = {"role": "user", "content": "x"}
    role = message["role"]
    if role in ("system", "developer"):
        return [message, ask]
    if role == "assistant" and "tool_calls" in message:
        answer = {"role": "tool", "tool_call_id": "probe0001", "name": "probe", "content": "x"}
        return [ask, message, answer]
    if role == "assistant":
        return [ask, message, ask]
    if role == "tool":
        answer = {**message, "tool_call_id": "probe0001", "name": "probe"}
        return [ask, {"role": "assistant", **_called({})}, answer]
    return [message] if role == "user" else [ask, message]


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        read = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _json_text(arguments: Any) -> str | None:
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, Mapping) else None


def joined_text(parts: list[Any]) -> str:
    """The text of a list of parts. RowError TEMPLATE_ERROR for a part that is no text."""
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise RowError(
            ErrorCode.TEMPLATE_ERROR, "the chat template takes text alone; a part is no text"
        )
    return "\n".join(str(text) for text in texts)
