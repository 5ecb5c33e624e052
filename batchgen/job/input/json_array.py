"""One JSON array of objects as rows, streamed: only one element is held in memory.

What is wrong inside an element is its row's error, as long as the element's end can be found; where
it cannot, nothing tells where the next one begins, and the file is damaged from there on.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError
from batchgen.job.input.compressed import DAMAGE, open_text, read_up_to, shown_by
from batchgen.job.input.jsonl import MAX_LINE_BYTES, JsonlRows

__all__ = ["JsonArrayRows"]

_CHUNK_BYTES = 1 << 20
_ELEMENTS = "fromstream(1 | truncate_stream(inputs))"
"""For jq: each element as soon as it is read, so that those before a damage come."""
_SPACE = " \t\r\n"
_raw_decode = json.JSONDecoder().raw_decode


class JsonArrayRows(JsonlRows):
    """The rows of one file: `(element number from 1, the element's bytes)`."""

    mark = ": row "

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Stream elements; InputUnreadableError where the file is damaged."""
        number = 0
        try:
            with open_text(self._source) as file:
                for element in _elements(_Text(file)):
                    number += 1
                    yield number, element
        except (ValueError, *DAMAGE) as error:
            raise self._damaged(number + 1, first_line(error)) from error

    def _damaged(self, number: int, reason: str) -> InputUnreadableError:
        lines = f"{shown_by(self._source)} | jq -cn --stream '{_ELEMENTS}' > rows.jsonl"
        return InputUnreadableError(
            f"input {self._source.name} is damaged at element {number} of its array: {reason}",
            f"mend it, replace it with a whole copy, or make rows of what is before it: {lines}",
        )


def _elements(text: _Text) -> Iterator[bytes]:
    text.expect("[")
    while text.next_char() != "]":
        yield text.element()
        if text.next_char() != "]":
            text.expect(",")
    text.expect("]")
    if text.next_char():
        raise ValueError("there is more text after the array")


class _Text:
    """Characters of a file, with one element's worth of them in memory."""

    def __init__(self, file: Any) -> None:
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self._buffer, self._at = "", 0

    def next_char(self) -> str:
        """The next character that is no white space, not taken; nothing at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def expect(self, char: str) -> None:
        """Take this character. Raises ValueError where another one stands."""
        if self.next_char() != char:
            raise ValueError(f"{char} is missing before it")
        self._at += 1

    def element(self) -> bytes:
        """The next value's text. Raises ValueError where it has no end, or is no JSON."""
        self.next_char()
        while True:
            try:
                _, end = _raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._buffer) - self._at > MAX_LINE_BYTES or not self._more():
                    raise ValueError(str(error)) from None
                continue
            if end < len(self._buffer) or not self._more():  # a number might go on
                found, self._at = self._buffer[self._at : end], end
                return found.encode("utf-8", "surrogatepass")

    def _more(self) -> bool:
        """Read on, twice as far as is held: an element is parsed a few times at most."""
        kept = self._buffer[self._at :]
        data = read_up_to(self._file, max(_CHUNK_BYTES, len(kept)))
        self._buffer, self._at = kept + self._decoder.decode(data, final=not data), 0
        return bool(data)
