"""Commands of batchgen as processes of their own, without the seconds that imports take.

A server that has imported what a run imports, and done nothing else, forks a process for each
command. It has one thread and has opened nothing, so the process is as one that was just started:
own memory, descriptors, environment, working folder; signals and SIGKILL reach it as any other. The
caller is its parent. Where that cannot be had, `start` starts a command in the usual way:

- not on Linux, where no process can adopt another;
- an environment that imported modules may have read differs from this process's;
- `BATCHGEN_TESTS_COLD` is set, which proves that nothing depends on the short cut.

What is about imports or the very start of a command calls `subprocess` itself.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import inspect
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Forked", "start"]

COMMAND = [sys.executable, "-m", "batchgen"]
_READ_LATE = (
    *("BATCHGEN_", "SLURM_", "RANK", "WORLD_SIZE", "PYTEST_CURRENT_TEST"),
    *("ARROW_DEFAULT_MEMORY_POOL", "GOMP_SPINCOUNT"),  # settled by the server as by each command
    *("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"),  # likewise
    *("TORCH_LOGS", "TORCH_CPP_LOG_LEVEL", "GLOO_SOCKET_IFNAME"),
    *("TORCHINDUCTOR_CACHE_DIR", "_RJEM_MALLOC_CONF"),  # set by torch and polars for what comes
    "PYTHONFAULTHANDLER",
)
"""Variables that no import reads."""
_TAKEN = {"stdin", "stdout", "stderr", "cwd", "env", "text", "umask"}
_AT_FIRST = dict(os.environ)
_ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Arrow's allocator starts a thread when it is imported; a forked process has it neither."""
_SERVER_S = 100.0
"""The server's first answer comes once it has imported all."""
_ADOPT = 36  # PR_SET_CHILD_SUBREAPER, of <sys/prctl.h>


def start(words: list[str], *, env: Mapping[str, str], **more: Any) -> subprocess.Popen[Any]:
    """A process `batchgen WORDS`, or `python -c TEXT WORDS` of a program that begins with `-c`;
    `more` as for `subprocess.Popen`."""
    if (
        more.keys() <= _TAKEN
        and sys.platform == "linux"
        and "BATCHGEN_TESTS_COLD" not in os.environ
    ):
        if _is_alike(env):
            return Forked(_server(_has_model(words, env)), words, env=env, **more)
    command = COMMAND[:1] if words[:1] == ["-c"] else COMMAND
    return subprocess.Popen(command + words, env=env, **more)


def _is_alike(env: Mapping[str, str]) -> bool:
    """Whether imports see the same in this environment as they saw in the server's."""
    differ = {key for key, _ in _AT_FIRST.items() ^ dict(env).items()}
    return all(key.startswith(_READ_LATE) for key in differ)


def _has_model(words: list[str], env: Mapping[str, str]) -> bool:
    words = words[2:] if words[:1] == ["-c"] else words
    return words[:1] in (["run"], ["bench"]) and "echo" not in (*words, env.get("BATCHGEN_ENGINE"))


@functools.cache
def _server(with_model: bool) -> Server:
    return Server(with_model)


class Server:
    """Forks processes that have the modules of a run: of one without a model, or of one with it."""

    def __init__(self, with_model: bool) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_SERVER_S)
        self._turn = threading.Lock()
        settings = {k: v for k, v in _AT_FIRST.items() if not k.startswith("BATCHGEN_")}
        file = Path(__file__).with_name("warm_server.py")
        self._process = subprocess.Popen(
            [sys.executable, str(file), str(theirs.fileno()), "model" if with_model else "echo"],
            env=settings | {"OMP_NUM_THREADS": "1"} | _ONE_THREAD,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        atexit.register(self.close)

    def close(self) -> None:
        """It ends when nobody can ask any more."""
        self._socket.shutdown(socket.SHUT_RDWR)  # whoever else has it open
        self._socket.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)

    def fork(self, request: Mapping[str, Any], streams: list[int]) -> int:
        """Its process id; it is a child of this process."""
        data = pickle.dumps(request)
        with self._turn, _adopting():
            socket.send_fds(self._socket, [len(data).to_bytes(8, "little")], streams)
            self._socket.sendall(data)
            pid = int.from_bytes(self._socket.recv(8, socket.MSG_WAITALL), "little")
        assert pid, "the server is gone: its last words are above"
        return pid


@contextmanager
def _adopting() -> Iterator[None]:
    """Inside, a process whose parent dies becomes a child of this process."""
    ctypes.CDLL(None).prctl(_ADOPT, 1)
    yield
    ctypes.CDLL(None).prctl(_ADOPT, 0)


class Forked(subprocess.Popen[Any]):
    """As `subprocess.Popen`, but forked by a server."""

    def __init__(self, server: Server, words: list[str], **more: Any) -> None:
        self._server = server
        super().__init__(words, **more)

    def _execute_child(self, *given: Any) -> None:
        """What `subprocess.Popen` calls to start a process whose pipes are made."""
        usual = subprocess.Popen._execute_child  # type: ignore[attr-defined]
        a = inspect.signature(usual).bind(self, *given).arguments
        pipes = [a["p2cread"], a["c2pwrite"], a["errwrite"]]
        streams = [number if own < 0 else own for number, own in enumerate(pipes)]
        request = {
            "words": a["args"],
            "environment": dict(a["env"]),
            "folder": os.path.abspath(a["cwd"] or "."),
            "umask": a["umask"],
        }
        self.pid = self._server.fork(request, streams)
        self._child_created = True
        self._close_pipe_fds(*(a[name] for name in _PIPES))  # type: ignore[attr-defined]


_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
