"""Rows of OpenAI's batch API: custom_id, method, url and body, turned into plain rows.

`/v1/chat/completions`, `/v1/completions` and, for text, `/v1/responses` are served, under Azure's
paths too; the answer's endpoint stays known through the kept column `url`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from batchgen.errors import ErrorCode, RowError
from batchgen.job.fields.contents import are_token_ids
from batchgen.job.fields.settings import joined, json_or_text
from batchgen.job.quoting import shown

__all__ = ["ENVELOPE", "URL", "body_as_row", "is_openai_row", "read_body"]

ENVELOPE = frozenset({"custom_id", "method", "body"})
"""Keys that are no extra columns."""
URL = "url"
"""Is kept."""
_CONTENT = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
}
_AZURE = re.compile(r"(?:/openai)?(?:/deployments/[^/]+|/v1)?(?=/(?:chat/)?completions|/responses)")
_INCLUDE_LOGPROBS = "message.output_text.logprobs"
_OF_TEXT = {"format": "response_format", "verbosity": "verbosity"}
_RESPONSE_ONLY = ("input", "instructions", "text")
_CLIENTS = "extra_body"
"""Where OpenAI's client takes what it does not know; it sends that beside the rest."""
_IGNORED = frozenset({"model", "user", "metadata", "store", "stream", "stream_options"})


def is_openai_row(raw: Mapping[str, Any]) -> bool:
    """Whether a row is an OpenAI batch row rather than a plain one with a column named body."""
    return "body" in raw and ("custom_id" in raw or "method" in raw) and "prompt" not in raw


def read_body(raw: Mapping[str, Any]) -> Any:
    """The body of an OpenAI row, which a table may hold as JSON text."""
    return json_or_text(raw["body"]) if isinstance(raw["body"], str) else raw["body"]


def body_as_row(
    raw: Mapping[str, Any], served_model_names: Collection[str], ignore_model: bool
) -> dict[str, Any]:
    """`{"messages" or "prompt": ..., "params": {...}}` of an OpenAI row.

    RowError: UNSUPPORTED_URL, MODEL_MISMATCH, MISSING_PROMPT, INVALID_ROW for another method or a
    body that is no object, INVALID_PARAM for `stream: true` and for a list of prompts. Without
    served names any model is accepted.
    """
    content = _content_key(raw)
    body = read_body(raw)
    if not isinstance(body, dict):
        raise RowError(ErrorCode.INVALID_ROW, "body must be an object")
    if not ignore_model:
        _check_model(body.get("model"), served_model_names)
    if body.get("stream"):
        raise RowError(ErrorCode.INVALID_PARAM, "stream must be false: a batch has no stream")
    if body.get(content) is None:
        raise RowError(ErrorCode.MISSING_PROMPT, f"body has no {content}, which its url needs")
    _check_tools(body.get("tools"))
    if content == "input":
        return _response_as_row(body)
    params = {k: v for k, v in body.items() if k not in (content, _CLIENTS) and k not in _IGNORED}
    params = joined(params, _CLIENTS, body.get(_CLIENTS))
    given = body[content]
    if content == "prompt" and isinstance(given, list):
        if len(given) == 1 and not are_token_ids(given):
            (given,) = given
        if isinstance(given, list) and not are_token_ids(given):
            text = "prompt must be one string, or one list of token ids: write a row for each"
            raise RowError(ErrorCode.INVALID_PARAM, text)
    return {content: given, "params": params}


def _content_key(raw: Mapping[str, Any]) -> str:
    url, method = raw.get("url"), raw.get("method", "POST")
    path = _path(url) if isinstance(url, str) else ""
    if url is None:  # Mistral's and Together's files: the job names the endpoint, not the row
        body = read_body(raw)
        held = [name for name in _CONTENT.values() if isinstance(body, dict) and name in body]
        if len(held) == 1:
            return held[0]
    if path not in _CONTENT:
        served = ", ".join(_CONTENT)
        raise RowError(ErrorCode.UNSUPPORTED_URL, f"url {shown(url)} is not served; {served} are")
    if method != "POST":
        raise RowError(ErrorCode.INVALID_ROW, f"method must be POST, not {shown(method)}")
    return _CONTENT[path]


def _path(url: str) -> str:
    """`/v1/...` of a path as OpenAI or Azure writes it."""
    path = urlsplit(url).path.rstrip("/")
    found = _AZURE.match(path)
    return "/v1" + path[found.end() :] if found else path


def _response_as_row(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request of the Responses API as a chat: text in, text out."""
    given = body["input"]
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(messages, list):
        text = f"input must be a string or a list of messages, not {shown(given)}"
        raise RowError(ErrorCode.INVALID_ROW, text)
    messages = _items_as_messages(messages)
    if body.get("instructions") is not None:
        messages = [{"role": "system", "content": _instructions(body)}, *messages]
    skipped = {*_RESPONSE_ONLY, *_IGNORED}
    params = {name: value for name, value in body.items() if name not in skipped}
    if isinstance(params.get("tools"), list):
        params["tools"] = [_chat_tool(tool) for tool in params["tools"]]
    if _INCLUDE_LOGPROBS in (body.get("include") or ()):
        params["logprobs"] = True
    return {"messages": messages, "params": joined(params, "text", _text_settings(body))}


def _text_settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """What `text` sets, under the names that chats have for it."""
    given = _inner(body, "text")
    for name, value in given.items():
        if name not in _OF_TEXT:
            text = f"text.{name}: {shown(value)} is not served"
            raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)
    return {_OF_TEXT[name]: _chat_format(value) for name, value in given.items()}


def _instructions(body: Mapping[str, Any]) -> str:
    given = body["instructions"]
    if isinstance(given, str):
        return given
    raise RowError(ErrorCode.INVALID_PARAM, f"instructions must be a string, not {shown(given)}")


def _inner(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What an object of the body sets."""
    given = body.get(name) or {}
    if not isinstance(given, dict):
        raise RowError(ErrorCode.INVALID_PARAM, f"{name} must be an object, not {shown(given)}")
    return {key: value for key, value in given.items() if value is not None}


def _items_as_messages(items: list[Any]) -> list[Any]:
    """A chat of the items of an input: what an assistant thinks, says and calls between two others
    is one turn of it."""
    messages: list[Any] = []
    turn: dict[str, Any] | None = None  # the assistant's, as long as it goes on
    for item in items:
        message = _item_as_message(item)
        mine = isinstance(message, dict) and message.get("role") == "assistant"
        if mine and turn is not None and not (message.get("content") and turn.get("content")):
            _continue_turn(turn, message)
            continue
        turn = message if mine else None
        messages.append(message)
    for message in messages:
        if isinstance(message, dict) and message.get("role") == "assistant":
            message.setdefault("content", None if message.get("tool_calls") else "")
    return messages


def _continue_turn(turn: dict[str, Any], message: Mapping[str, Any]) -> None:
    for name, value in message.items():
        if name == "tool_calls":
            turn[name] = [*turn.get(name, ()), *value]
        elif name == "reasoning_content" and name in turn:
            turn[name] = f"{turn[name]}\n{value}"
        elif value is not None:
            turn[name] = value


def _item_as_message(item: Any) -> Any:
    """An item of the input without what is only its envelope's."""
    kind = item.get("type", "message") if isinstance(item, dict) else "message"
    if not isinstance(kind, str) or kind not in _ITEMS:
        text = f"input may hold {', '.join(_ITEMS)}, not {shown(kind)}"
        raise RowError(ErrorCode.INVALID_ROW, text)
    return _ITEMS[kind](item) if isinstance(item, dict) else item


def _said(item: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in item.items() if k not in ("type", "id", "status", "phase")}


def _called(item: Mapping[str, Any]) -> dict[str, Any]:
    function = {name: item.get(name) for name in ("name", "arguments")}
    if not isinstance(function["name"], str):
        raise RowError(ErrorCode.INVALID_ROW, "input: a function_call needs a name")
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    return {"role": "assistant", "tool_calls": [call]}


def _answered(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}


def _thought(item: Mapping[str, Any]) -> dict[str, Any]:
    """Its text, else what is told of it; encrypted thinking says nothing here."""
    parts = item.get("content") or item.get("summary") or ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    text = "\n".join(text for text in texts if isinstance(text, str))
    return {"role": "assistant", **({"reasoning_content": text} if text else {})}


_ITEMS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "message": _said,
    "function_call": _called,
    "function_call_output": _answered,
    "reasoning": _thought,
}


def _check_tools(tools: Any) -> None:
    """Functions alone are served: the others are the service's own, or take no JSON."""
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type", "function") if isinstance(tool, dict) else "function"
        if kind not in (None, "function"):
            text = f"tools: type {shown(kind)} is not served: function is"
            raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)


def _chat_tool(tool: Any) -> Any:
    """The Responses API writes a function's fields beside its type, chats inside function."""
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _chat_format(given: Any) -> Any:
    """The Responses API writes a schema's fields beside its type, chats inside json_schema."""
    if not isinstance(given, dict) or given.get("type") != "json_schema":
        return given
    inner = {name: value for name, value in given.items() if name != "type"}
    return {"type": "json_schema", "json_schema": inner}


def _check_model(model: Any, served: Collection[str]) -> None:
    if model is None or not served or model in served:
        return
    text = f"body.model {shown(model)} is not served here; {', '.join(sorted(served))} is"
    raise RowError(ErrorCode.MODEL_MISMATCH, text)
