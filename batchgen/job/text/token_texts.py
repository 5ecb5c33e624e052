"""Each token's own text, as OpenAI writes it: text where its bytes are whole characters, else
`bytes:\\xf0\\x9f`, of which the bytes can be read again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

__all__ = ["TokenTexts", "byte_level_bytes", "bytes_of", "piece_bytes", "shown_bytes"]

_MOST_KEPT = 1 << 16
_ESCAPED = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """Texts of tokens by id; `bytes_of_token` is asked once for most of them."""

    def __init__(self, bytes_of_token: Callable[[int], bytes]) -> None:
        self._text = lru_cache(_MOST_KEPT)(lambda token: shown_bytes(bytes_of_token(token)))

    def __call__(self, token_ids: Sequence[int]) -> list[str]:
        """One text a token."""
        return [self._text(token) for token in token_ids]


def shown_bytes(content: bytes) -> str:
    """The text of these bytes, or the bytes themselves where they are no text."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def bytes_of(text: str) -> bytes:
    """The inverse of `shown_bytes`."""
    escaped = _ESCAPED.fullmatch(text)
    if escaped is None:
        return text.encode("utf-8", "replace")
    return bytes.fromhex(escaped[1].replace("\\x", ""))


def byte_level_bytes(piece: str) -> bytes:
    """Bytes of a piece in GPT-2's alphabet, in which each byte is one printable character. A piece
    with any other character is text as it is, as to the decoder in Rust."""
    try:
        return b"".join([_BYTES[character] for character in piece])
    except KeyError:
        return piece.encode()


def piece_bytes(piece: str) -> bytes:
    """Bytes of a SentencePiece piece: a space is U+2581, a lone byte <0x0A>."""
    byte = _BYTE_PIECE.fullmatch(piece)
    if byte is not None:
        return bytes([int(byte[1], 16)])
    return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _alphabet() -> dict[str, bytes]:
    """Printable Latin-1 stands for itself, the others follow U+0100 (`bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    found = {chr(byte): bytes([byte]) for byte in printable}
    return found | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}


_BYTES = _alphabet()
