"""What a row asks: a prompt, a chat or token ids, and which of its columns says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.errors import ErrorCode, RowError
from batchgen.job.fields.messages import invalid, is_conversation
from batchgen.job.quoting import shown

__all__ = ["are_token_ids", "is_written_conversation", "read_contents", "read_token_ids"]

_MAX_TOKEN_ID = 2**31 - 1
_PROMPTS = ("inputs", "text_input", "inputText")
"""Of requests to TGI, Triton and Bedrock."""
_IDS = ("id", "custom_id", "uuid", "task_id", "question_id", "doc_id")


def read_contents(raw: Mapping[str, Any], columns: tuple[str, str, str]) -> tuple[Any, Any, Any]:
    """The prompt, the messages and the token ids of a row, two of which are None: a chat or token
    ids may stand in the column of prompts. RowError where not one of them is given."""
    prompt, messages, token_ids = raw.get(columns[0]), raw.get(columns[1]), raw.get(columns[2])
    if type(prompt) is str and messages is None and token_ids is None:
        return prompt, None, None
    if columns[0] == columns[1] or (messages is None and is_conversation(prompt)):
        prompt, messages = None, prompt
    if token_ids is None and are_token_ids(prompt):
        prompt, token_ids = None, prompt
    given = (prompt is not None) + (messages is not None) + (token_ids is not None)
    if given != 1:
        raise _not_one_content(given, columns, raw)
    return prompt, messages, token_ids


def is_written_conversation(prompt: str) -> bool:
    """Whether a prompt is JSON text of one, which may have been meant as such."""
    if prompt.lstrip()[:1] != "[":
        return False
    try:
        return is_conversation(json.loads(prompt))
    except (ValueError, RecursionError):
        return False


def are_token_ids(value: Any) -> bool:
    """Whether a value in a column of prompts is a list of token ids, as vLLM and OpenAI take it."""
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def read_token_ids(value: Any) -> list[int]:
    """Token ids from 0; whether the model's vocabulary has them is seen later."""
    if not isinstance(value, list):
        raise invalid("prompt_token_ids must be a list of integers")
    if not value:
        raise RowError(ErrorCode.EMPTY_PROMPT, "prompt_token_ids is an empty list")
    if not all(type(token) is int for token in value):
        raise invalid("prompt_token_ids must hold integers only")
    if min(value) < 0 or max(value) > _MAX_TOKEN_ID:
        raise invalid("prompt_token_ids must lie between 0 and 2147483647")
    return value


def _not_one_content(given: int, columns: Sequence[str], raw: Mapping[str, Any]) -> RowError:
    """A row in which not one but so many of the columns say what it asks."""
    names = ", ".join(columns)
    if given:
        return RowError(ErrorCode.INVALID_ROW, f"more than one of {names}")
    has = shown([key for key, value in raw.items() if value is not None])
    chat = next((key for key, value in raw.items() if _is_chat(value)), None)
    hint = f"; give --messages-column {chat}" if chat else _inside(raw, columns)
    return RowError(ErrorCode.MISSING_PROMPT, f"none of {names}; the row has {has}{hint}")


def _inside(raw: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Where a row's own content is: all rows in one object, a request of another API, a column of
    another name."""
    holders = [key for key, value in raw.items() if _held(value, columns)]
    if len(holders) == len(raw) > 1:
        return "; rows stand under its keys: jq -c 'to_entries[] | {id: .key} + .value' FILE"
    for key, value in raw.items():
        path = f".{key}" if key.isidentifier() else f".{json.dumps(key)}"
        if len(raw) == 1 and isinstance(value, list) and value and isinstance(value[0], dict):
            return f"; rows stand in its list {key!r}: jq -c '{path}[]' FILE makes them lines"
        if key in holders:
            held = _held(value, columns)
            return f"; {key!r} holds its {held}: jq -c '{path} + del({path})' FILE lifts them"
    texts = [key for key, value in raw.items() if type(value) is str and key not in _IDS]
    is_flat = not any(isinstance(value, list) for value in raw.values())
    prompts = [*(key for key in texts if key in _PROMPTS), *texts[: is_flat and len(texts) == 1]]
    prompts += [key for key, value in raw.items() if are_token_ids(value)]
    return f"; give --prompt-column {prompts[0]}" if prompts else ""


def _held(value: Any, columns: Sequence[str]) -> str | None:
    """Under which name an object has content."""
    if not isinstance(value, dict):
        return None
    names = ("contents", *columns)
    return next((n for n in names if _is_chat(value.get(n)) or isinstance(value.get(n), str)), None)


def _is_chat(value: Any) -> bool:
    return is_conversation(value) or (isinstance(value, str) and is_written_conversation(value))
