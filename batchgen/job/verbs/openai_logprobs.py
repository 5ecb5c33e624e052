"""Log-probabilities of an output's tokens in the shapes of OpenAI's three endpoints."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from batchgen.job.text.token_texts import bytes_of

__all__ = ["COLUMNS", "chat_logprobs", "completion_logprobs", "echoed_text", "response_logprobs"]

Row = Mapping[str, Any]
_LEAST = -9999.0
"""What OpenAI writes for a token that is all but impossible; JSON has no infinity."""
COLUMNS = (
    "logprobs", "token_texts", "top_logprobs",
    "prompt_logprobs", "prompt_token_texts", "prompt_top_logprobs",
)  # fmt: skip


def chat_logprobs(row: Row) -> dict[str, Any] | None:
    """`choices[].logprobs` of a chat completion; None where the row asked for none."""
    content = response_logprobs(row)
    return None if content is None else {"content": content, "refusal": None}


def response_logprobs(row: Row) -> list[dict[str, Any]] | None:
    """`output_text.logprobs` of a response."""
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


def completion_logprobs(row: Row) -> dict[str, Any] | None:
    """`choices[].logprobs` of a text completion: parallel lists."""
    if _is_echo(row):
        names = ("prompt_token_texts", "prompt_logprobs", "prompt_top_logprobs")
        return _parallel(*(row.get(name) for name in names))
    tokens, logprobs = row.get("token_texts"), row.get("logprobs")
    if tokens is None or logprobs is None:
        return None
    length = _num_shown(row, tokens)
    top = row.get("top_logprobs")
    return _parallel(tokens[:length], logprobs[:length], top and top[:length])


def echoed_text(row: Row) -> str | None:
    """The text of a completion that is its scored prompt (`echo`); None where it is none."""
    if not _is_echo(row):
        return None
    return b"".join(map(bytes_of, row["prompt_token_texts"])).decode("utf-8", "replace")


def _is_echo(row: Row) -> bool:
    return row.get("prompt_logprobs") is not None and not row["completion_tokens"]


def _parallel(tokens: Any, logprobs: Any, top: Any) -> dict[str, Any]:
    decoder = getincrementaldecoder("utf-8")("replace")
    lengths = [len(decoder.decode(bytes_of(token))) for token in tokens]
    return {
        "tokens": tokens,
        "token_logprobs": logprobs,
        "text_offset": [0, *accumulate(lengths)][: len(tokens)],
        "top_logprobs": top and [{one["token"]: one["logprob"] for one in place} for place in top],
    }


def _token(text: str, logprob: float) -> dict[str, Any]:
    content = bytes_of(text)
    if content != text.encode("utf-8", "replace"):  # no text: OpenAI's chats show the bytes alone
        text = text.removeprefix("bytes:")
    return {"token": text, "bytes": list(content), "logprob": max(logprob, _LEAST)}


def _num_shown(row: Row, tokens: list[str]) -> int:
    """All tokens but one that ended the text and is no part of it."""
    text = b"".join(map(bytes_of, tokens[:-1]))
    ended = row["finish_reason"] == "stop" and text == (row["completion"] or "").encode()
    return len(tokens) - ended
