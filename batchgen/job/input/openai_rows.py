"""Rows of OpenAI's batch API: custom_id, method, url and body, turned into plain rows.

`/v1/chat/completions`, `/v1/completions` and, for text, `/v1/responses` are served, under Azure's
paths too; the answer's endpoint stays known through the kept column `url`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown

__all__ = ["ENVELOPE", "body_as_row", "is_openai_row"]

ENVELOPE = frozenset({"custom_id", "method", "body"})
"""Keys that are no extra columns; `url` is kept."""
_CONTENT = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
}
_AZURE = re.compile(r"(?:/openai)?(?:/deployments/[^/]+|/v1)?(?=/(?:chat/)?completions|/responses)")
_INCLUDE_LOGPROBS = "message.output_text.logprobs"
_RESPONSE_ONLY = ("input", "instructions", "max_output_tokens", "reasoning", "text")
_IGNORED = frozenset({"model", "user", "metadata", "store", "stream", "stream_options"})


def is_openai_row(raw: Mapping[str, Any]) -> bool:
    """Whether a row is an OpenAI batch row rather than a plain one with a column named body."""
    return "body" in raw and ("custom_id" in raw or "method" in raw) and "prompt" not in raw


def body_as_row(
    raw: Mapping[str, Any], served_model_names: Collection[str], ignore_model: bool
) -> dict[str, Any]:
    """`{"messages" or "prompt": ..., "params": {...}}` of an OpenAI row.

    RowError: UNSUPPORTED_URL, MODEL_MISMATCH, MISSING_PROMPT, INVALID_ROW for another method or a
    body that is no object, INVALID_PARAM for `stream: true` and for a list of prompts. Without
    served names any model is accepted.
    """
    content = _content_key(raw)
    body = raw["body"]
    if not isinstance(body, dict):
        raise RowError(ErrorCode.INVALID_ROW, "body must be an object")
    if not ignore_model:
        _check_model(body.get("model"), served_model_names)
    if body.get("stream"):
        raise RowError(ErrorCode.INVALID_PARAM, "stream must be false: a batch has no stream")
    if body.get(content) is None:
        raise RowError(ErrorCode.MISSING_PROMPT, f"body has no {content}, which {raw['url']} needs")
    if content == "input":
        return _response_as_row(body)
    if content == "prompt" and isinstance(body.get("prompt"), list):
        text = "prompt must be one string: write a row for each prompt"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    params = {k: v for k, v in body.items() if k != content and k not in _IGNORED}
    return {content: body[content], "params": params}


def _content_key(raw: Mapping[str, Any]) -> str:
    url, method = raw.get("url"), raw.get("method", "POST")
    path = _path(url) if isinstance(url, str) else ""
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
    messages = [_item_as_message(item) for item in messages]
    if isinstance(body.get("instructions"), str):
        messages = [{"role": "system", "content": body["instructions"]}, *messages]
    skipped = {*_RESPONSE_ONLY, *_IGNORED}
    params = {name: value for name, value in body.items() if name not in skipped}
    if isinstance(params.get("tools"), list):
        params["tools"] = [_chat_tool(tool) for tool in params["tools"]]
    if body.get("max_output_tokens") is not None:
        params["max_tokens"] = body["max_output_tokens"]
    if _INCLUDE_LOGPROBS in (body.get("include") or ()):
        params["logprobs"] = True
    for holder, name, ours in (
        ("reasoning", "effort", "reasoning_effort"),
        ("text", "format", "response_format"),
        ("text", "verbosity", "verbosity"),
    ):
        inner = body.get(holder)
        if isinstance(inner, dict) and inner.get(name) is not None:
            params[ours] = _chat_format(inner[name]) if name == "format" else inner[name]
    return {"messages": messages, "params": params}


def _item_as_message(item: Any) -> Any:
    """An item of the input without what is only its envelope's."""
    kind = item.get("type", "message") if isinstance(item, dict) else "message"
    if kind != "message":
        text = f"input may hold messages only, not {shown(kind)}"
        raise RowError(ErrorCode.INVALID_ROW, text)
    if not isinstance(item, dict):
        return item
    return {k: v for k, v in item.items() if k not in ("type", "id", "status", "phase")}


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
