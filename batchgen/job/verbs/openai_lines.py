"""Rows of an output as the lines that OpenAI's batch API gives back.

Fields are those of the `openai` package's types: ChatCompletion, Completion, Response. A row that
failed is a line with status 400 (the request's fault) or 500 and OpenAI's error object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

from batchgen.errors import ErrorCode
from batchgen.job.verbs import openai_logprobs

__all__ = ["COLUMNS", "batch_line"]

Row = Mapping[str, Any]

COLUMNS = (
    "index",
    "sample",
    "id",
    "status",
    "completion",
    "reasoning",
    "reasoning_tokens",
    "finish_reason",
    "error_code",
    "error_message",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "finished_at",
    "run_id",
    "tool_calls",
    "url",
    *openai_logprobs.COLUMNS,
)
"""What is read of an output, as far as it is there."""

_OURS = {
    ErrorCode.INTERNAL, ErrorCode.OOM, ErrorCode.NAN_LOGITS, ErrorCode.ENGINE_CRASH,
    ErrorCode.ROW_TIMEOUT,
}  # fmt: skip


def batch_line(samples: Sequence[Row], model: str) -> dict[str, Any]:
    """The line of one input row: its samples in order, or the one row that says why it failed."""
    first = samples[0]
    key = blake2b(f"{first['run_id']}/{first['index']}".encode(), digest_size=12).hexdigest()
    failed = first["status"] != "ok"
    body = _error(first) if failed else _body(samples, model, key)
    status = 200 if not failed else 500 if first["error_code"] in _OURS else 400
    return {
        "id": f"batch_req_{key}",
        "custom_id": first["id"],
        "response": {"status_code": status, "request_id": f"req_{key}", "body": body},
        "error": None,
    }


def _error(row: Row) -> dict[str, Any]:
    kind = "server_error" if row["error_code"] in _OURS else "invalid_request_error"
    message = row["error_message"] or f"the row was {row['status']}"
    return {"error": {"message": message, "type": kind, "param": None, "code": row["error_code"]}}


def _body(samples: Sequence[Row], model: str, key: str) -> dict[str, Any]:
    path = urlsplit(str(samples[0].get("url") or "")).path.rstrip("/")
    if path.endswith("/responses"):
        return _response(samples[0], model, key)
    if path.endswith("/completions") and not path.endswith("/chat/completions"):
        return _completion(samples, model, key)
    return _chat_completion(samples, model, key)


def _chat_completion(samples: Sequence[Row], model: str, key: str) -> dict[str, Any]:
    choices = [
        {
            "index": row["sample"],
            "message": _message(row),
            "logprobs": openai_logprobs.chat_logprobs(row),
            "finish_reason": "tool_calls" if _tool_calls(row) else row["finish_reason"],
        }
        for row in samples
    ]
    head = {"id": f"chatcmpl-{key}", "object": "chat.completion"}
    return head | _of_choices(samples, model, choices)


def _message(row: Row) -> dict[str, Any]:
    """Reasoning under vLLM's present name and its former one, which DeepSeek's API has."""
    calls = _tool_calls(row)
    content = None if calls and not row["completion"] else row["completion"]
    message = {"role": "assistant", "content": content, "refusal": None}
    if row.get("reasoning") is not None:
        message |= {"reasoning": row["reasoning"], "reasoning_content": row["reasoning"]}
    return message | ({"tool_calls": calls} if calls else {})


def _completion(samples: Sequence[Row], model: str, key: str) -> dict[str, Any]:
    choices = [
        {
            "index": row["sample"],
            "text": openai_logprobs.echoed_text(row) or row["completion"],
            "logprobs": openai_logprobs.completion_logprobs(row),
            "finish_reason": row["finish_reason"],
        }
        for row in samples
    ]
    head = {"id": f"cmpl-{key}", "object": "text_completion"}
    return head | _of_choices(samples, model, choices)


def _of_choices(
    samples: Sequence[Row], model: str, choices: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "created": _created(samples),
        "model": model,
        "choices": choices,
        "usage": _usage(samples),
    }


def _response(row: Row, model: str, key: str) -> dict[str, Any]:
    cut = row["finish_reason"] == "length"
    usage = _usage([row])
    return {
        "id": f"resp_{key}",
        "object": "response",
        "created_at": _created([row]),
        "status": "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": _items(row, key, "incomplete" if cut else "completed"),
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {
                "cached_tokens": row["cached_tokens"] or 0,
                "cache_write_tokens": 0,
            },
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": usage["total_tokens"],
        },
    }


def _items(row: Row, key: str, status: str) -> list[dict[str, Any]]:
    """What a response's output consists of: thinking, text, calls."""
    items: list[dict[str, Any]] = []
    if row.get("reasoning") is not None:
        thought = {"type": "reasoning_text", "text": row["reasoning"]}
        items.append({"id": f"rs_{key}", "type": "reasoning", "summary": [], "content": [thought]})
    calls = _tool_calls(row)
    if row["completion"] or not calls:
        text = {"type": "output_text", "text": row["completion"], "annotations": []}
        logprobs = openai_logprobs.response_logprobs(row)
        if logprobs is not None:
            text["logprobs"] = logprobs
        envelope = {"id": f"msg_{key}", "type": "message", "role": "assistant", "status": status}
        items.append(envelope | {"content": [text]})
    for number, call in enumerate(calls):
        name = {"id": f"fc_{key}_{number}", "type": "function_call", "call_id": call["id"]}
        items.append(name | call["function"] | {"status": "completed"})
    return items


def _usage(samples: Sequence[Row]) -> dict[str, Any]:
    """The prompt counts once, whatever the number of samples."""
    prompt = samples[0]["prompt_tokens"] or 0
    completion = sum(row["completion_tokens"] or 0 for row in samples)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {
            "reasoning_tokens": sum(row.get("reasoning_tokens") or 0 for row in samples)
        },
    }


def _created(samples: Sequence[Row]) -> int:
    moment = samples[-1]["finished_at"]
    return 0 if moment is None else int(moment.timestamp())


def _tool_calls(row: Row) -> list[Any]:
    calls = row.get("tool_calls")
    read = json.loads(calls) if isinstance(calls, str) and calls else calls
    return read if isinstance(read, list) else []
