"""Log-probabilities of an output's tokens in the shapes of OpenAI's three endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchgen.job.text.token_texts import bytes_of

__all__ = ["COLUMNS", "chat_logprobs", "completion_logprobs", "response_logprobs"]

Row = Mapping[str, Any]
COLUMNS = ("logprobs", "token_texts", "top_logprobs")


def chat_logprobs(row: Row) -> dict[str, Any] | None:
    """`choices[].logprobs` of a chat completion; None where the row asked for none."""
    content = _content(row)
    return None if content is None else {"content": content, "refusal": None}


def response_logprobs(row: Row) -> list[dict[str, Any]] | None:
    """`output_text.logprobs` of a response."""
    return _content(row)


def completion_logprobs(row: Row) -> dict[str, Any] | None:
    """`choices[].logprobs` of a text completion: parallel lists."""
    tokens, logprobs = row.get("token_texts"), row.get("logprobs")
    if tokens is None or logprobs is None:
        return None
    length = _num_shown(row, tokens)
    offsets, offset = [], 0
    for token in tokens[:length]:
        offsets.append(offset)
        offset += len(bytes_of(token).decode("utf-8", "ignore"))
    top = row.get("top_logprobs")
    likeliest = [{one["token"]: one["logprob"] for one in place} for place in (top or [])[:length]]
    return {
        "tokens": tokens[:length],
        "token_logprobs": logprobs[:length],
        "text_offset": offsets,
        "top_logprobs": likeliest if top else None,
    }


def _content(row: Row) -> list[dict[str, Any]] | None:
    tokens, logprobs = row.get("token_texts"), row.get("logprobs")
    if tokens is None or logprobs is None:
        return None
    length = _num_shown(row, tokens)
    top = row.get("top_logprobs") or [[]] * length
    return [
        _token(token, logprob) | {"top_logprobs": [_token(o["token"], o["logprob"]) for o in place]}
        for token, logprob, place in zip(
            tokens[:length], logprobs[:length], top[:length], strict=True
        )
    ]


def _token(text: str, logprob: float) -> dict[str, Any]:
    content = bytes_of(text)
    if content != text.encode("utf-8", "replace"):  # no text: OpenAI's chats show the bytes alone
        text = text.removeprefix("bytes:")
    return {"token": text, "bytes": list(content), "logprob": logprob}


def _num_shown(row: Row, tokens: list[str]) -> int:
    """All tokens but one that ended the text and is no part of it."""
    text = b"".join(map(bytes_of, tokens[:-1]))
    ended = row["finish_reason"] == "stop" and text == (row["completion"] or "").encode()
    return len(tokens) - ended
