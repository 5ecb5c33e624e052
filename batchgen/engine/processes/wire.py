"""What parent and child say to each other, and how: pickled, over one socket.

Many requests refer to one large object (a tokenizer, behind their stop strings). It is marked
`request.Shared`, crosses once, and is the same object in the child for all of them.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from batchgen.engine.config import EngineConfig, ModelFacts
from batchgen.engine.request import Completion, Request, Shared
from batchgen.engine.stats import EngineStats

__all__ = ["Abort", "Add", "AskOutputs", "Failed", "Load", "Loaded", "Outputs", "Report", "Wire"]


@dataclass(frozen=True, slots=True)
class Load:
    """The first message to a child. `config` None: the echo engine, of these sizes."""

    config: EngineConfig | None
    max_num_seqs: int = 256
    max_model_len: int = 1 << 20
    facts: ModelFacts = field(default_factory=ModelFacts)
    core: int | None = None
    """Run on this core of the CPU alone."""
    name: str = ""
    log_level: int = 30


@dataclass(frozen=True, slots=True)
class Add:
    """Take these requests. `doomed`, for tests: request id -> signal to end by when it begins."""

    requests: list[Request]
    doomed: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Abort:
    """Forget these."""

    request_ids: list[int]


@dataclass(frozen=True, slots=True)
class AskOutputs:
    """Say what the unfinished requests generated so far."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The child's engine is there."""

    max_model_len: int
    max_num_seqs: int
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class Report:
    """What a step, or several, came to."""

    completions: list[Completion]
    begun: list[int]
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class Outputs:
    """The answer to `AskOutputs`."""

    token_ids: dict[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """The child ends: `error` is what its engine raised."""

    error: Exception


class Wire:
    """One end of the socket. Both calls raise OSError or EOFError once the other ended."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._sent: dict[int, Shared] = {}  # kept alive, so that no id is used twice
        self._received: dict[int, Any] = {}

    def send(self, message: object) -> None:
        """Write one message, whole."""
        buffer = io.BytesIO()
        _Pickler(buffer, self._sent).dump(message)
        self.connection.send_bytes(buffer.getbuffer())

    def receive(self) -> Any:
        """Wait for one message."""
        return _Unpickler(io.BytesIO(self.connection.recv_bytes()), self._received).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, sent: dict[int, Shared]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._sent = sent

    def persistent_id(self, obj: Any) -> tuple[int, bytes | None] | None:
        if not isinstance(obj, Shared):
            return None
        new = id(obj) not in self._sent
        self._sent[id(obj)] = obj
        return id(obj), pickle.dumps(obj) if new else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, received: dict[int, Any]) -> None:
        super().__init__(file)
        self._received = received

    def persistent_load(self, pid: tuple[int, bytes | None]) -> Any:
        key, content = pid
        if content is not None:
            self._received[key] = pickle.loads(content)
        return self._received[key]
