"""The thread that reads, tokenises and hands over chunks of rows, a bounded distance ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from batchgen.job.flow.channel import Cancelled, Channel
from batchgen.job.rows import InputRow
from batchgen.job.text.prepared import FailedRow, PreparedRow
from batchgen.job.text.requests import Requests

__all__ = ["ReaderStage", "chunks"]

CHUNK_ROWS = 512
CHUNK_CHARACTERS = 2_000_000
ROWS_AHEAD = 2048
TOKENS_AHEAD = 1_000_000
"""Of prompts that are ready, some 40 bytes each: rows may be long."""
_CARRIED_SHARE = 8


class ReaderStage:
    """Rows as prepared chunks in `ready`; error rows go out at once.

    `make_requests` loads the tokenizer; it is called on this thread when the first row needs it.
    `stop_rows` ends `rows` where they pass over many that are done before they give one.
    """

    def __init__(
        self,
        rows: Iterable[InputRow],
        make_requests: Callable[[], Requests],
        *,
        fail: Callable[[list[FailedRow]], None],
        on_chunk: Callable[[], None],
        stop_rows: Callable[[], None] = lambda: None,
    ) -> None:
        self.ready: Channel[list[PreparedRow]] = Channel(ROWS_AHEAD, _weight, TOKENS_AHEAD)
        self._rows = rows
        self._make_requests = make_requests
        self._fail = fail
        self._on_chunk = on_chunk
        self._stop_rows = stop_rows
        self._stopping = False
        self.begin_early = False
        """Whether the engine is told of the first good row before its text is tokens: an empty
        chunk."""
        self.read_to_end = False

    def stop(self) -> None:
        """Read no further; called from another thread."""
        self._stopping = True
        self._stop_rows()

    def run(self) -> None:
        """Read to the end. Returns early when nobody wants more."""
        try:
            self._run()
        except Cancelled:
            pass
        finally:
            self.ready.close()

    def _run(self) -> None:
        requests: Requests | None = None
        try:
            for chunk in chunks(self._wanted(), CHUNK_ROWS, CHUNK_CHARACTERS):
                if requests is None:
                    if self.begin_early and any(row.error is None for row in chunk):
                        self.ready.put([])
                    requests = self._make_requests()
                self._prepare(requests, chunk)
        finally:
            if requests is not None:
                requests.close()
        self._on_chunk()

    def _prepare(self, requests: Requests, chunk: list[InputRow]) -> None:
        ready, failed = requests.prepare(chunk)
        self._on_chunk()
        if failed:
            self._fail(failed)
        if ready:
            self.ready.put(ready)

    def _wanted(self) -> Iterator[InputRow]:
        for row in self._rows:
            if self._stopping:
                return
            yield row
        self.read_to_end = not self._stopping


def chunks(
    rows: Iterable[InputRow], most_rows: int, most_characters: int
) -> Iterator[list[InputRow]]:
    """Lists of at most `most_rows` rows that end early once their prompts are `most_characters`, or
    what they carry is a few times that."""
    chunk: list[InputRow] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += _size(row)
        if len(chunk) >= most_rows or characters >= most_characters:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _weight(ready: list[PreparedRow]) -> int:
    return sum(row.weight for row in ready)


def _size(row: InputRow) -> int:
    """About how many characters the row's prompt has, and some of what it carries: that costs no
    tokenizer's time."""
    return _prompt_size(row) + row.carried // _CARRIED_SHARE


def _prompt_size(row: InputRow) -> int:
    if row.columns is not None:
        return sum(len(value) for value in row.columns.values() if isinstance(value, str))
    if row.prompt is not None:
        return len(row.prompt)
    if row.messages is not None:
        return sum(len(str(message.get("content", ""))) for message in row.messages)
    return 4 * len(row.prompt_token_ids or ())
