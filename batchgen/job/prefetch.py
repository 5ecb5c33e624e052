"""Work one step ahead in another thread: reading and decoding beside sorting and writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["prefetched"]

T = TypeVar("T")
R = TypeVar("R")


def prefetched(load: Callable[[T], R], items: Iterable[T], ahead: int = 2) -> Iterator[R]:
    """`map(load, items)` with at most `ahead` results waiting."""
    with ThreadPoolExecutor(1, thread_name_prefix="batchgen-prefetch") as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(load, item))
            if len(waiting) > ahead:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
