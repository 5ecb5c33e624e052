"""Lines of JSON as rows, compressed or not, without ever trusting a line.

Decisions: a byte-order mark at a file's start is skipped; CRLF and LF both end a line; blank lines
are no rows but count in line numbers; the last line needs no newline; NaN and Infinity are no
JSON; of equal keys in one object the last one counts (as in Python, pandas and DuckDB); a line
longer than 64 MiB is not held in memory but reported.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO, NoReturn

from batchgen.errors import ErrorCode, RowError
from batchgen.job.input.compressed import DAMAGE, damaged, open_text, read_up_to
from batchgen.job.input.folder_keys import Keys
from batchgen.job.input.source import Source

__all__ = ["MAX_LINE_BYTES", "JsonlRows", "decode_row"]

MAX_LINE_BYTES = 64 << 20
_BUFFER_BYTES = 1 << 20
_OVERLONG = b"\x00overlong"
"""What stands for a line past the limit: a NUL, so no line of JSON equals it."""


_AS_IT_IS: Mapping[str, Callable[[Any], Any]] = MappingProxyType({})


class JsonlRows:
    """The rows of one file: `(line number from 1, the line's bytes without white space)`."""

    mark = ":"
    """Between the source's name and a row's number."""

    def __init__(
        self, source: Source, keys: Keys = (), read: Mapping[str, Callable[[Any], Any]] = _AS_IT_IS
    ) -> None:
        """`keys`: columns of every row that has none of that name itself, and what is to `read`
        their text."""
        self._source = source
        values = [(name, read[name](text) if name in read else text) for name, text in keys]
        self._keys: tuple[tuple[str, Any], ...] = tuple(values)
        self._end = b"".join([b"\n", *(repr(key).encode() for key in keys)])

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Stream non-blank lines; InputUnreadableError where the file is missing or damaged."""
        number = 0
        try:
            with open_text(self._source) as file:
                while line := file.readline(MAX_LINE_BYTES):
                    number += 1
                    if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                        line = _skip_rest(file) or line
                    elif number == 1:
                        line = line.removeprefix(BOM_UTF8)
                    if line := line.strip():
                        yield number, line
        except DAMAGE as error:
            raise damaged(self._source, number, error) from error

    def head(self, size: int) -> bytes:
        """The first bytes; InputUnreadableError as in iteration."""
        try:
            with open_text(self._source) as file:
                return read_up_to(file, size)
        except DAMAGE as error:
            raise damaged(self._source, 0, error) from error

    def digest_bytes(self, line: bytes) -> bytes:
        """What the content digest takes of a row: its line, whatever newline ended it, and keys."""
        return line + self._end

    def decode(self, line: bytes) -> dict[str, Any]:
        """The row's object; RowError as `decode_row`."""
        row = decode_row(line)
        for name, value in self._keys:
            row.setdefault(name, value)
        return row


def decode_row(line: bytes) -> dict[str, Any]:
    """One line as an object.

    RowError: INVALID_JSON for bytes that are no JSON text, INVALID_ROW for JSON that is no object
    or that holds a lone surrogate, which no UTF-8 file can carry on.
    """
    try:
        text = line.decode()
        row, end = _scan(text, 0)
    except UnicodeDecodeError as error:
        raise _invalid(f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _invalid(_reason(line, error)) from None
    except RecursionError:
        raise _invalid("nested too deeply") from None
    except ValueError as error:
        raise _invalid(str(error)) from None
    if end != len(text):
        raise _invalid(f"more text after the object, at character {end + 1}")
    if type(row) is not dict:
        text = f"a row is a JSON object, not {_noun(row)}{_as_rows(row)}"
        raise RowError(ErrorCode.INVALID_ROW, text)
    if b"\\u" in line:
        _refuse_surrogates(row)
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_scan = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode


def _skip_rest(file: BinaryIO) -> bytes | None:
    """Read past the rest of an overlong line; None if there was none (the file ends here)."""
    rest = file.readline(_BUFFER_BYTES)
    if rest in (b"", b"\n", b"\r\n"):
        return None
    while rest and not rest.endswith(b"\n"):
        rest = file.readline(_BUFFER_BYTES)
    return _OVERLONG


def _reason(line: bytes, error: json.JSONDecodeError) -> str:
    if line == _OVERLONG:
        return f"the line is longer than {MAX_LINE_BYTES >> 20} MiB"
    if line.lstrip().startswith(b"{'"):
        return "Python's quotes; JSON has double ones, as json.dumps(row) writes them"
    return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"


def _invalid(reason: str) -> RowError:
    return RowError(ErrorCode.INVALID_JSON, reason)


def _refuse_surrogates(row: dict[str, Any]) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        text = "a string holds half of a surrogate pair (\\ud800 to \\udfff)"
        raise RowError(ErrorCode.INVALID_ROW, text) from None
    except RecursionError:
        raise _invalid("nested too deeply") from None


def _as_rows(value: Any) -> str:
    """What makes rows of prompts and chats that stand bare, one a line or all in one list."""
    each, first = "", value
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        each, first = ".[] | ", value[0]
    name = "prompt" if isinstance(first, str) else "messages" if isinstance(first, list) else ""
    return f"; jq -c '{each}{{{name}: .}}' FILE > rows.jsonl makes rows of them" if name else ""


def _noun(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
