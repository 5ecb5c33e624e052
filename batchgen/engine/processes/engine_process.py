"""The parent's hold of one child: its process, its socket, and the requests that it was given."""

from __future__ import annotations

import logging
import os
import subprocess
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection

from batchgen.devices import only_gpus
from batchgen.engine.children import ended_by, start_child
from batchgen.engine.processes.devices import Device
from batchgen.engine.processes.wire import Load, Loaded, Wire
from batchgen.engine.request import Request
from batchgen.engine.stats import EngineStats

__all__ = ["EngineProcess"]

_MODULE = "batchgen.engine.processes.worker"
_CLOSE_S = 10.0


class EngineProcess:
    """One child, from its start to its end. `loaded` is None until its engine is there."""

    def __init__(
        self, device: Device, load: Load, predecessor: EngineProcess | None = None
    ) -> None:
        self.device = device
        self.is_first = predecessor is None
        self.num_completions = 0
        self.deaths_in_a_row = 0
        """Of processes of this device that finished nothing, up to this one."""
        if predecessor is not None and not predecessor.num_completions:
            self.deaths_in_a_row = predecessor.deaths_in_a_row
        self._load = load
        self.loaded: Loaded | None = None
        self.assigned: dict[int, Request] = {}
        self.begun: set[int] = set()
        self.stats = EngineStats()
        self._wire, self._process = self._start()

    def _start(self) -> tuple[Wire, subprocess.Popen[bytes]]:
        connection, process = start_child(_MODULE, _environment(self.device, self._load))
        wire = Wire(connection)
        with suppress(OSError):  # one that died at once is found by its socket
            wire.send(_on(self.device, self._load))
        return wire, process

    @property
    def connection(self) -> Connection:
        """To be waited for."""
        return self._wire.connection

    @property
    def unbegun(self) -> list[int]:
        """Requests that it was given and does not compute yet."""
        return [request_id for request_id in self.assigned if request_id not in self.begun]

    @property
    def num_free(self) -> int:
        """Slots without a request; less than none where more wait. None at all before it loaded."""
        return self.loaded.max_num_seqs - len(self.assigned) if self.loaded else 0

    def send(self, message: object) -> None:
        """To the child; nothing happens where it is gone: its socket tells."""
        with suppress(OSError):
            self._wire.send(message)

    def receive(self) -> object:
        """Its next message, or None where it ended."""
        try:
            return self._wire.receive()
        except (EOFError, OSError):
            return None

    def close(self) -> None:
        """Wait for it, which was told to end (None); make it end where it does not."""
        try:
            self._process.wait(_CLOSE_S if self.loaded else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.connection.close()

    def death(self) -> str:
        """How it ended, in words. Its socket is closed already."""
        try:
            code = self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self.connection.close()
        return ended_by(code)


def _on(device: Device, load: Load) -> Load:
    config = load.config
    if config is not None:
        config = replace(config, device=device.torch_name if device.number is None else "cuda:0")
    level = logging.getLogger("batchgen").getEffectiveLevel()
    return replace(load, config=config, core=device.core, name=device.name, log_level=level)


def _environment(device: Device, load: Load) -> dict[str, str]:
    """A process sees its own GPUs alone. One core needs one thread, and is told so before OpenMP
    looks at the machine."""
    if device.number is not None:
        count = load.config.tensor_parallel if load.config else 1
        return os.environ | only_gpus(device.number, count)
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
