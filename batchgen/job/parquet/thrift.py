"""Thrift's compact protocol, as Parquet writes its footers and indexes in it: structs to values
that can be changed, and back to bytes. Fields that nobody here knows pass through as they were.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

from batchgen.job.varints import read_varint

__all__ = ["Struct", "decoded", "encoded"]

Struct = dict[int, tuple[int, Any]]
"""Field id -> (type, value): an int, bytes (also of a double), a Struct, or (type, values)."""

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_NUMBERS = (_I16, _I32, _I64)
_LONG_LIST = 15
"""In the place of a list's length: it follows."""


def decoded(data: bytes) -> Struct:
    """The struct that begins there. Raises ValueError where it is none, or has a map, which
    Parquet does not use."""
    try:
        return _Reader(data).struct()
    except IndexError as error:
        raise ValueError("a struct of Thrift ends too early") from error


def encoded(struct: Struct) -> bytes:
    """Its bytes."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._number()
            fields[number] = kind, self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            return self._list()
        if kind in (_TRUE, _FALSE):  # the type says it all
            return None
        if kind in (_BYTE, _DOUBLE):
            return self._bytes(1 if kind == _BYTE else 8)
        raise ValueError(f"no type of Thrift that Parquet uses: {kind}")

    def _list(self) -> tuple[int, list[Any]]:
        head = self._byte()
        kind, length = head & 15, head >> 4
        length = self._varint() if length == _LONG_LIST else length
        inner = _BYTE if kind in (_TRUE, _FALSE) else kind  # in a list a flag is a byte
        return kind, [self._value(inner) for _ in range(length)]

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value, self._at = read_varint(self._data, self._at)
        return value

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, length: int) -> bytes:
        self._at += length
        if self._at > len(self._data):
            raise IndexError
        return self._data[self._at - length : self._at]


def _write_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for number, (kind, value) in sorted(struct.items()):
        if 0 < number - last < 16:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            _write_number(out, number)
        _write_value(out, kind, value)
        last = number
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in _NUMBERS:
        _write_number(out, value)
    elif kind == _BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind == _STRUCT:
        _write_struct(out, value)
    elif kind in (_LIST, _SET):
        _write_list(out, *value)
    elif kind not in (_TRUE, _FALSE):
        out += value


def _write_list(out: bytearray, kind: int, values: list[Any]) -> None:
    if len(values) < _LONG_LIST:
        out.append(len(values) << 4 | kind)
    else:
        out.append(_LONG_LIST << 4 | kind)
        _write_varint(out, len(values))
    inner = _BYTE if kind in (_TRUE, _FALSE) else kind
    for value in values:
        _write_value(out, inner, value)


def _write_number(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
