"""A file of which only the ranges that are read are fetched, the next ones ahead of time."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

__all__ = ["Fetch", "RangedFile"]

Fetch = Callable[[int, int], bytes]
"""(start, stop) -> these bytes."""

BLOCK_BYTES = 2 << 20
_FETCHERS = 8


class RangedFile(io.RawIOBase):
    """`size` bytes by way of `fetch`. With `ahead` it reads blocks in order, so many of them before
    they are asked for; without, exactly the ranges that are asked for, as a reader of columns does.
    """

    def __init__(self, fetch: Fetch, size: int, *, ahead: int = 0) -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._ahead = ahead
        self._at = 0
        self._blocks: dict[int, Future[bytes]] = {}

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place: from the beginning, from here or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: object) -> int:
        """Fill the buffer as far as the bytes go, at most to the end of a block."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        stop = min(self._at + len(view), self._size)
        if stop <= self._at:
            return 0
        data = self._from_block(stop) if self._ahead else self._whole(self._at, stop)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _from_block(self, stop: int) -> bytes:
        number, offset = divmod(self._at, BLOCK_BYTES)
        wanted = range(number, number + 1 + self._ahead)
        self._blocks = {n: block for n, block in self._blocks.items() if n in wanted}
        for ahead in wanted:
            if ahead not in self._blocks and ahead * BLOCK_BYTES < self._size:
                self._blocks[ahead] = _fetchers().submit(self._block, ahead)
        return self._blocks[number].result()[offset : offset + stop - self._at]

    def _block(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        return self._whole(start, min(self._size, start + BLOCK_BYTES))

    def _whole(self, start: int, stop: int) -> bytes:
        data = self._fetch(start, stop)
        if len(data) != stop - start:
            raise OSError(f"{stop - start} bytes were asked for and {len(data)} came")
        return data


@cache
def _fetchers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_FETCHERS, thread_name_prefix="batchgen-fetch")
