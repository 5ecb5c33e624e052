"""Files that may be compressed, as streams of bytes that end with the last whole one.

Streams may stand one after the other in one file, as pbzip2, pixz and `cat` leave them. Python's
own readers of bz2 and xz take whatever is no beginning of a stream, behind a whole one, for the end
of the file: one damaged byte there, or the zeros that xz pads with, and all rows behind it would be
passed over without a word. And where a file is cut short, readers of whole buffers lose what they
had of it: here every byte before the damage is given.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from batchgen.errors import InputUnreadableError
from batchgen.job.input.source import Source, SourceKind

__all__ = ["DAMAGE", "JoinedStreams", "damaged", "open_text", "read_up_to", "shown_by"]

DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
_READ_BYTES = 1 << 18
_BUFFER_BYTES = 1 << 20
_COMMANDS = {
    SourceKind.JSONL_GZ: "gzip",
    SourceKind.JSONL_BZ2: "bzip2",
    SourceKind.JSONL_XZ: "xz",
    SourceKind.JSONL_ZST: "zstd",
    SourceKind.JSONL_LZ4: "lz4",
}
"""What takes a file's compression off, with -dc."""


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


class _Unzipped(io.RawIOBase):
    """Python's reader of gzip, piece by piece: it closes the file below, which that leaves open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._stream = file, gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, target: memoryview, /) -> int:  # type: ignore[override]
        """The next bytes, as many as one piece gives; their number, 0 at the end."""
        data = self._stream.read1(len(target))
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Both."""
        self._stream.close()
        self._file.close()
        super().close()


class _ByArrow(io.RawIOBase):
    """Arrow's own zstandard and LZ4, which also notice a frame that is cut short, but give nothing
    of the piece that they are in then: it is read anew, byte by byte."""

    def __init__(self, source: Source, codec: str) -> None:
        self._source, self._codec = source, codec
        self._given, self._most = 0, _READ_BYTES
        self._stream = self._opened()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, target: memoryview, /) -> int:  # type: ignore[override]
        """The next bytes; their number, 0 at the end."""
        try:
            data = self._stream.read(min(len(target), self._most))
        except OSError:
            if self._most == 1:
                raise
            self._go_back()
            data = self._stream.read(1)
        target[: len(data)] = data
        self._given += len(data)
        return len(data)

    def close(self) -> None:
        """The file too."""
        self._stream.close()
        super().close()

    def _go_back(self) -> None:
        self._stream.close()
        self._stream, self._most = self._opened(), 1
        left = self._given
        while left:
            left -= len(self._stream.read(min(left, _READ_BYTES)))

    def _opened(self) -> Any:
        import pyarrow as pa

        remote = self._source.remote
        raw = pa.OSFile(self._source.name) if remote is None else pa.PythonFile(remote.open())
        return pa.CompressedInputStream(raw, self._codec)


def open_text(source: Source) -> BinaryIO:
    """A buffered reader of the decompressed bytes. Reading raises one of `DAMAGE` where they give
    out; InputUnreadableError for a compression that this pyarrow lacks."""
    return (
        io.BufferedReader(_raw(source), _BUFFER_BYTES)
        if source.kind in _COMMANDS
        else source.open(_BUFFER_BYTES)
    )


def read_up_to(file: BinaryIO, size: int) -> bytes:
    """So many bytes, or those up to the end or to a damage, which the next call raises if this one
    gives any."""
    read = bytearray()
    try:
        while len(read) < size and (data := file.read1(size - len(read))):  # type: ignore[attr-defined]
            read += data
    except DAMAGE:
        if not read:
            raise
    return bytes(read)


def shown_by(source: Source) -> str:
    """The command that writes a file's text."""
    command = f"{_COMMANDS[source.kind]} -dc" if source.kind in _COMMANDS else "cat"
    return f"{command} < {source.name}"  # by < whatever the ending of its name


def damaged(source: Source, number: int, error: Exception) -> InputUnreadableError:
    """For a file that gives out after so many whole lines."""
    where = f"after line {number}" if number else "within its first line"
    if isinstance(error, OSError) and error.errno is not None:
        text = f"input {source.name}, {where}: {error.strerror}"
        return InputUnreadableError(text, "make it readable and run the same command again")
    hint = "replace it with a whole copy and run the same command again"
    is_cut = isinstance(error, EOFError) or "Truncated" in str(error)
    if is_cut and number and source.remote is None:
        lines = f"{shown_by(source)} | head -n {number} > rows.jsonl"
        hint += f"; or take the lines that are whole: {lines}"
    return InputUnreadableError(f"input {source.name} is damaged {where}: {error}", hint)


def _raw(source: Source) -> io.RawIOBase:
    if source.kind is SourceKind.JSONL_GZ:
        return _Unzipped(source.open(_BUFFER_BYTES))
    if source.kind is SourceKind.JSONL_BZ2:
        return JoinedStreams(source.open(_BUFFER_BYTES), bz2.BZ2Decompressor)
    if source.kind is SourceKind.JSONL_XZ:
        return JoinedStreams(source.open(_BUFFER_BYTES), lzma.LZMADecompressor)
    import pyarrow as pa

    command = _COMMANDS[source.kind]
    if not pa.Codec.is_available(command):
        hint = f"pip install --force-reinstall pyarrow, or: {command} -d {source.name}"
        raise InputUnreadableError(f"this pyarrow cannot read {command}: {source.name}", hint)
    return _ByArrow(source, command)
