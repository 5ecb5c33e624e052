"""Compressed streams one after the other in one file, as pbzip2, pixz and `cat` leave them.

Python's own readers of bz2 and xz take whatever is no beginning of a stream, behind a whole one,
for the end of the file: one damaged byte there, or the zeros that xz pads with, and all rows behind
it would be passed over without a word.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, Protocol

__all__ = ["JoinedStreams"]

_READ_BYTES = 1 << 18


class _Stream(Protocol):
    """A decompressor of one stream, of `bz2` or `lzma`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class JoinedStreams(io.RawIOBase):
    """Decompresses a file to its very end, and closes it.

    Reading raises what the decompressor raises for bytes that are no stream, and EOFError where the
    file ends within one. Zeros between streams are padding.
    """

    def __init__(self, file: BinaryIO, begin: Callable[[], _Stream]) -> None:
        """`begin` makes the decompressor of the next stream."""
        self._file, self._begin = file, begin
        self._stream: _Stream | None = None
        self._held = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, target: memoryview, /) -> int:  # type: ignore[override]
        """The next bytes; their number, 0 at the end."""
        while stream := self._at_work():
            data = b""
            if stream.needs_input and not (data := self._more()):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            data = stream.decompress(data, len(target))
            if data:
                target[: len(data)] = data
                return len(data)
        return 0

    def close(self) -> None:
        """The file too."""
        self._file.close()
        super().close()

    def _at_work(self) -> _Stream | None:
        """The stream that is read; None where no other one follows the last."""
        if self._stream is not None and self._stream.eof:
            self._held, self._stream = self._stream.unused_data, None
        if self._stream is None and self._skip_padding():
            self._stream = self._begin()
        return self._stream

    def _skip_padding(self) -> bool:
        """Whether anything but zeros follows; it is held then."""
        while data := self._more():
            self._held = data.lstrip(b"\0")
            if self._held:
                return True
        return False

    def _more(self) -> bytes:
        data, self._held = self._held or self._file.read(_READ_BYTES), b""
        return data
