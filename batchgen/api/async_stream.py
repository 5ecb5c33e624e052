"""`LLM.agenerate`: a stream for `async for`. Waiting happens in a thread, never on the event loop.

async rows --Pump, on the loop--> PushedRows --> Stream.__next__, in a thread --> the loop
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batchgen.api.result import Result
from batchgen.api.source import PushedRows
from batchgen.api.stream import Stream

__all__ = ["AsyncStream", "Pump"]


class Pump:
    """Pulls an async iterable on the event loop, as far ahead of what was given back as allowed."""

    def __init__(self, rows: AsyncIterable[Any], into: PushedRows, max_in_flight: int) -> None:
        self._rows = rows
        self._into = into
        self._room = asyncio.Semaphore(max_in_flight)
        self._num_given = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running loop."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    def gave_back(self, num_rows: int) -> None:
        """So many rows were given back by now: as many more may be pulled."""
        for _ in range(num_rows - self._num_given):
            self._room.release()
        self._num_given = num_rows

    def stop(self) -> None:
        """Pull no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            rows = aiter(self._rows)
            while True:
                await self._room.acquire()
                self._into.put(await anext(rows))
        except StopAsyncIteration:
            self._into.end()
        except Exception as error:
            self._into.end(error)
        except BaseException as error:  # a cancelled wait of the user's rows, too, ends them
            self._into.end(error)
            raise


class AsyncStream(AsyncIterator[Result]):
    """Results of one call; also an async context manager. `aclose` ends it early."""

    def __init__(self, stream: Stream, pump: Pump | None) -> None:
        self._stream = stream
        self._pump = pump
        self._thread = ThreadPoolExecutor(1, "batchgen-results")
        self._pending: asyncio.Future[Result | None] | None = None

    async def __anext__(self) -> Result:
        """The next result. Cancelled while it waits, it loses none: the next call gets it."""
        if self._pump is not None:
            self._pump.start()
        result = await self._wait()
        if self._pump is not None:
            self._pump.gave_back(self._stream.num_given)
        if result is None:
            self._thread.shutdown(wait=False)
            raise StopAsyncIteration
        return result

    async def _wait(self) -> Result | None:
        """What the thread finds next. It goes on where its waiting task is cancelled, and what it
        finds stays for the next call."""
        if self._pending is None:
            loop = asyncio.get_running_loop()
            self._pending = loop.run_in_executor(self._thread, next, self._stream, None)
        try:
            result = await asyncio.shield(self._pending)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._pending = None
            raise
        self._pending = None
        return result

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End, and wait until the engine is free."""
        self._stop()
        await asyncio.get_running_loop().run_in_executor(None, self._stream.close)

    def __del__(self) -> None:
        if hasattr(self, "_pending"):
            self._stop()

    def _stop(self) -> None:
        if self._pump is not None:
            self._pump.stop()
        self._stream.stop()
        self._thread.shutdown(wait=False)
