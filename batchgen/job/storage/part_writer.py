"""Finished rows on their way to disk: collected, then written as parts by a thread of its own, so
that nobody who appends waits for compression or fsync."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from batchgen.job.row_sizes import size_of_output
from batchgen.job.rows import OutputRow
from batchgen.job.storage.part import Columns, Part, PartStem
from batchgen.job.storage.parts import write_part
from batchgen.job.stores.files import Guard
from batchgen.job.stores.places import Place

__all__ = ["PartWriter"]

_MAX_PART_BYTES = 16 << 20
"""Of one part, roughly: longer rows make smaller parts."""
_by_index = attrgetter("index")


class PartWriter:
    """Collects rows and commits them as parts: at half of `every` rows, or after `seconds`.
    `stem`: what its parts are called, but for their numbers.

    Never more than `every` rows wait, nor a part's bytes while another is written: then `append`
    waits instead.
    """

    def __init__(
        self,
        folder: Place,
        stem: PartStem,
        columns: Columns,
        guard: Guard,
        *,
        every: int,
        seconds: float,
        background: bool = True,
    ) -> None:
        self._folder = folder
        self._stem = stem
        self._columns = columns
        self._guard = guard
        self._every = every
        self._seconds = seconds
        self._rows: list[OutputRow] = []
        self._bytes = 0
        self._oldest = 0.0
        self._num_writing = 0
        self._seq = 0
        self.parts: list[Part] = []
        self._wanted = self._closing = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="batchgen-parts", daemon=True)
        if background:
            self._thread.start()

    @property
    def num_pending(self) -> int:
        """Rows (samples counted) taken and not durable yet."""
        return len(self._rows) + self._num_writing

    def append(self, rows: Sequence[OutputRow]) -> None:
        """Take rows; waits only while too many are not durable. Raises a past write's error."""
        if not rows:
            return
        size = sum(map(size_of_output, rows))
        with self._changed:
            self._raise_error()
            first = not self._rows
            if first:
                self._oldest = time.monotonic()
            self._rows.extend(rows)
            self._bytes += size
            if first or self._is_due():  # the thread must know from when on to count the age
                self._changed.notify_all()
            if self._thread.ident is None:
                self._write_here()
                return
            while self._is_too_much() and self._error is None:
                self._wanted = True
                self._changed.notify_all()
                self._changed.wait()
            self._raise_error()

    def flush(self) -> None:
        """Return once every row taken is durable; raise what prevented it."""
        with self._changed:
            if self._thread.ident is None:
                self._wanted = True
                self._write_here()
            while self.num_pending and self._error is None:
                self._wanted = True
                self._changed.notify_all()
                self._changed.wait()
            self._raise_error()

    def close(self) -> None:
        """Flush and end the thread."""
        try:
            if self._error is None:
                self.flush()
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            if self._thread.ident is not None:
                self._thread.join()

    def _is_too_much(self) -> bool:
        return self._bytes >= _MAX_PART_BYTES or self.num_pending > self._every

    def _is_due(self) -> bool:
        full = 2 * len(self._rows) >= self._every or self._bytes >= _MAX_PART_BYTES
        aged = time.monotonic() - self._oldest >= self._seconds
        return bool(self._rows) and (full or aged or self._wanted)

    def _run(self) -> None:
        try:
            while rows := self._next():
                self._commit(rows)
                with self._changed:
                    self._num_writing = 0
                    self._changed.notify_all()
        except BaseException as error:  # whoever waits for the rows hears of it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> list[OutputRow]:
        """Wait for rows that are due and take them; [] when closing."""
        with self._changed:
            while not self._is_due():
                if self._closing:
                    return []
                left = self._oldest + self._seconds - time.monotonic()
                left = min(max(0.01, left), threading.TIMEOUT_MAX)
                self._changed.wait(left if self._rows else None)
            return self._take()

    def _take(self) -> list[OutputRow]:
        rows, self._rows = self._rows, []
        self._num_writing, self._bytes, self._wanted = len(rows), 0, False
        self._changed.notify_all()
        return rows

    def _write_here(self) -> None:
        """Without a thread: write what is due, at once."""
        if self._is_due():
            rows = self._take()
            try:
                self._commit(rows)
            except BaseException as error:
                self._error = error
                raise
            self._num_writing = 0

    def _commit(self, rows: list[OutputRow]) -> None:
        for portion in _portions(rows):
            self._seq += 1
            stem = replace(self._stem, seq=self._seq)
            part = write_part(self._folder, stem, portion, self._columns, self._guard)
            self.parts.append(part)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _portions(rows: list[OutputRow]) -> Iterator[list[OutputRow]]:
    """The rows in parts of bounded size (no Arrow column may pass 2 GB), rows never torn apart."""
    if sum(map(size_of_output, rows)) < _MAX_PART_BYTES:
        yield rows
        return
    portion: list[OutputRow] = []
    size = 0
    for _, group in groupby(sorted(rows, key=_by_index), key=_by_index):
        samples = list(group)
        portion += samples
        size += sum(map(size_of_output, samples))
        if size >= _MAX_PART_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
