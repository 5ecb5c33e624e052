"""What a row may say: messages, token ids and their checks, before any template or tokenizer."""

from __future__ import annotations

from typing import Any

from batchgen.errors import ErrorCode, RowError

__all__ = ["read_messages", "read_token_ids"]

_MAX_TOKEN_ID = 2**31 - 1


def read_messages(value: Any) -> list[dict[str, Any]]:
    """A conversation in OpenAI's form; content is a string or a list of text parts.

    RowError: INVALID_ROW for another shape or a part that is no text, EMPTY_PROMPT for no message.
    """
    if not isinstance(value, list):
        raise _invalid("messages must be a list of objects with role and content")
    if not value:
        raise RowError(ErrorCode.EMPTY_PROMPT, "messages is an empty list")
    for number, message in enumerate(value):
        _check_message(message, f"messages[{number}]")
    return value


def read_token_ids(value: Any) -> list[int]:
    """Token ids from 0; whether the model's vocabulary has them is seen later."""
    if not isinstance(value, list):
        raise _invalid("prompt_token_ids must be a list of integers")
    if not value:
        raise RowError(ErrorCode.EMPTY_PROMPT, "prompt_token_ids is an empty list")
    if not all(type(token) is int for token in value):
        raise _invalid("prompt_token_ids must hold integers only")
    if min(value) < 0 or max(value) > _MAX_TOKEN_ID:
        raise _invalid("prompt_token_ids must lie between 0 and 2147483647")
    return value


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise _invalid(f"{where} must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise _invalid(f"{where}.role must be a non-empty string")
    content = message.get("content")
    if isinstance(content, str) or (content is None and message.get("tool_calls")):
        return
    if not isinstance(content, list):
        raise _invalid(f"{where}.content must be a string or a list of text parts")
    if not all(map(_is_text_part, content)):
        raise _invalid(f"{where}.content may hold text parts only")


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and type(part.get("text")) is str


def _invalid(reason: str) -> RowError:
    return RowError(ErrorCode.INVALID_ROW, reason)
