"""The leader's hold of the other ranks: processes that load, then do as they are told.

A thread waits for what they say, since the leader may be within a collective that needs them: once
one has ended, that one never returns on a GPU unless its communicator is aborted.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch.distributed as dist

from batchgen.engine.children import ended_by, start_child
from batchgen.engine.config import EngineConfig
from batchgen.errors import BatchgenError

__all__ = ["FollowerFailed", "FollowerReady", "Followers", "Start"]

_MODULE = "batchgen.engine.processes.rank"
_CLOSE_S = 10.0
_LAST_WORDS_S = 5.0
_STUCK_S = 20.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """The first message to a rank."""

    config: EngineConfig
    rank: int
    device: str
    num_threads: int
    meeting_place: str
    log_level: int


@dataclass(frozen=True, slots=True)
class FollowerReady:
    """It has imported torch, and waits where all meet."""


@dataclass(frozen=True, slots=True)
class FollowerFailed:
    """It ends: `error` is what it raised."""

    error: Exception


class Followers:
    """Ranks 1 and on. `close` ends them; so does the end of this process, however it comes."""

    def __init__(self, config: EngineConfig, devices: Sequence[str], num_threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="batchgen-ranks-")
        self.meeting_place = str(Path(self._folder.name) / "meeting")
        self._connections: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._on_gpu = devices[0] != "cpu"
        self._news = threading.Condition()
        self._num_ready = 0
        self._failure: BatchgenError | None = None
        self._is_known = threading.Event()
        self._is_closing = False
        level = max(logging.WARNING, logging.getLogger("batchgen").getEffectiveLevel())
        env = os.environ | {"OMP_NUM_THREADS": str(num_threads)}
        for rank, device in enumerate(devices, start=1):
            connection, process = start_child(_MODULE, env)
            self._connections.append(connection)
            self._processes.append(process)
            start = Start(config, rank, device, num_threads, self.meeting_place, level)
            with suppress(OSError):
                connection.send(start)
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pids(self) -> list[int]:
        """Of the ranks from 1 on."""
        return [process.pid for process in self._processes]

    @property
    def left_a_gpu_waiting(self) -> bool:
        """Whether one ended unasked, so that what the leader's GPU runs may never end."""
        return self._on_gpu and self._failure is not None

    def wait_until_ready(self) -> None:
        """Raises what one of them raised instead."""
        with self._news:
            self._news.wait_for(lambda: self._failure or self._num_ready == len(self._processes))
        self.check()

    def announce(self, order: object) -> None:
        """To all. Raises what is known where one has ended."""
        self.check()
        try:
            for connection in self._connections:
                connection.send(order)
        except OSError as error:
            raise self.explain(error) from error

    def check(self) -> None:
        """Raises BatchgenError once a rank has ended."""
        if self._failure is not None:
            self._is_known.set()
            raise self._failure

    def explain(self, error: Exception) -> Exception:
        """What is behind a failure of the leader's: the end of another rank comes first, and is
        often heard of a moment later."""
        with self._news:
            self._news.wait_for(lambda: self._failure, timeout=_LAST_WORDS_S)
        self._is_known.set()
        return error if self._failure is None else self._failure

    def close(self, *, at_once: bool = False) -> None:
        """Tell them to end; make those end that do not, or all `at_once`: they may still load."""
        self._is_closing = True
        for connection in self._connections:
            with suppress(OSError):
                connection.send(None)
        for process in self._processes:
            try:
                process.wait(0 if at_once or self._failure else _CLOSE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def _listen(self) -> None:
        """On a thread of its own, until one of them ends."""
        while True:
            heard = wait(self._connections)
            for rank, connection in enumerate(self._connections, start=1):
                if connection not in heard:
                    continue
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    message = None
                if not isinstance(message, FollowerReady):
                    return self._mourn(rank, message)
                with self._news:
                    self._num_ready += 1
                    self._news.notify_all()

    def _mourn(self, rank: int, message: object) -> None:
        if self._is_closing:
            return
        with self._news:
            self._failure = self._obituary(rank, message)
            self._news.notify_all()
        if self._on_gpu and dist.is_initialized():  # it frees the leader before it returns, if ever
            threading.Thread(target=_abort, daemon=True).start()
            atexit.register(signal.alarm, int(_STUCK_S))  # a way out that waits for it ends too
        if not self._is_known.wait(_STUCK_S) and not self._is_closing:
            _log.critical("%s", self._failure)
            os._exit(self._failure.exit_code)

    def _obituary(self, rank: int, message: object) -> BatchgenError:
        if isinstance(message, FollowerFailed):
            if isinstance(message.error, BatchgenError):
                return message.error
            how = f"{type(message.error).__name__}: {message.error}"
        else:
            with suppress(subprocess.TimeoutExpired):
                self._processes[rank - 1].wait(_CLOSE_S)
            code = self._processes[rank - 1].returncode
            how = "its pipe closed" if code is None else ended_by(code)
        return BatchgenError(
            f"the process of rank {rank} of --tensor-parallel {len(self._processes) + 1} ended "
            f"({how}); no other rank can go on without it",
            "finished rows are kept: run again to continue",
        )


def _abort() -> None:
    """End what the leader may be waiting in."""
    with suppress(Exception):
        dist.group.WORLD.abort()  # type: ignore[union-attr]
