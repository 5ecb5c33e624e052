"""Integers in groups of seven bits, the lowest first: as protobuf and Thrift write them."""

from __future__ import annotations

__all__ = ["read_varint"]

_MOST_BITS = 64


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at `at`, and where the next thing begins. Raises IndexError where the
    data ends in it, ValueError where it has more than 64 bits."""
    value = shift = 0
    while (byte := data[at]) > 127:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if shift >= _MOST_BITS:
            raise ValueError("an integer of more than 64 bits")
    return value | byte << shift, at + 1
