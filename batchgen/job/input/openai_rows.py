"""Rows of OpenAI's batch API: custom_id, method, url and body, turned into plain rows.

`/v1/chat/completions` and `/v1/completions` are served; the answer's endpoint stays known through
the kept column `url`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown

__all__ = ["ENVELOPE", "body_as_row", "is_openai_row"]

ENVELOPE = frozenset({"custom_id", "method", "body"})
"""Keys that are no extra columns; `url` is kept."""
_CONTENT = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
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
    if content == "prompt" and isinstance(body.get("prompt"), list):
        text = "prompt must be one string: write a row for each prompt"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    params = {k: v for k, v in body.items() if k != content and k not in _IGNORED}
    return {content: body[content], "params": params}


def _content_key(raw: Mapping[str, Any]) -> str:
    url, method = raw.get("url"), raw.get("method", "POST")
    if not isinstance(url, str) or url not in _CONTENT:
        served = " and ".join(_CONTENT)
        raise RowError(ErrorCode.UNSUPPORTED_URL, f"url {shown(url)} is not served; {served} are")
    if method != "POST":
        raise RowError(ErrorCode.INVALID_ROW, f"method must be POST, not {shown(method)}")
    return _CONTENT[url]


def _check_model(model: Any, served: Collection[str]) -> None:
    if model is None or not served or model in served:
        return
    text = f"body.model {shown(model)} is not served here; {', '.join(sorted(served))} is"
    raise RowError(ErrorCode.MODEL_MISMATCH, text)
