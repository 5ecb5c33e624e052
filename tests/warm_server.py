"""Imports what a run imports, then forks a process for each command that is asked for.

`warm_process.py` starts it and is its other side.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import pickle
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from batchgen.__main__ import main as command
from batchgen.cli.process.allocator import settle_pool
from batchgen.cli.process.logs import hush_libraries
from batchgen.cli.process.threads import settle_waiting

_FIRST = {"echo": ("batchgen.cli.run",), "model": ("batchgen.cli.run", "torch", "transformers")}


def rehearse(kind: str, names: Path) -> None:
    """Run a command of this kind and write the modules that it leaves, in their order."""
    source = names.with_name("in.jsonl")
    source.write_text(json.dumps({"prompt": "once", "max_tokens": 2}) + "\n")
    words = ["run", "-i", str(source), "-o", str(names.with_name("out.parquet")), "-q"]
    words += ["--engine", "echo"] if kind == "echo" else ["--device", "cpu"]
    assert command(words) == 0, kind
    names.write_text("\n".join(name for name in sys.modules if not name.startswith("__")))


def import_all(kind: str, known: Path) -> None:
    """What a run of this kind imports: their names are in `known`, or found out first."""
    for name in _FIRST[kind]:
        import_module(name)
    try:
        names = known.read_text()
    except FileNotFoundError:
        names = rehearsed(kind, known)
    for name in names.split("\n"):
        import_module(name)


def rehearsed(kind: str, known: Path) -> str:
    """As a forked process finds out that then ends; noted for the other workers of the session."""
    with tempfile.TemporaryDirectory(dir=known.parent) as folder:
        names = Path(folder, "modules")
        pid = os.fork()
        if pid == 0:
            rehearse(kind, names)
            os._exit(0)
        os.waitpid(pid, 0)
        text = names.read_text()
        names.replace(known)
    return text


def serve(connection: socket.socket) -> list[str] | None:
    """Fork until nobody asks any more; in a forked process, the words of its command."""
    while True:
        size, streams, *_ = socket.recv_fds(connection, 8, 3)
        if not size:
            return None
        data = connection.recv(int.from_bytes(size, "little"), socket.MSG_WAITALL)
        assert len(os.listdir("/proc/self/task")) == 1, "an import has started a thread"
        pid = fork_orphan()
        if pid == 0:
            connection.close()
            return become(pickle.loads(data), streams)
        for stream in streams:
            os.close(stream)
        connection.sendall(pid.to_bytes(8, "little"))


def fork_orphan() -> int:
    """As `os.fork`, but the new process is not ours: its parent dies before it goes on."""
    alive, living = os.pipe()
    told, telling = os.pipe()
    between = os.fork()
    if between == 0:
        child = os.fork()
        if child:
            os.write(telling, child.to_bytes(8, "little"))
            os._exit(0)
        for descriptor in (living, told, telling):
            os.close(descriptor)
        os.read(alive, 1)
        os.close(alive)
        return 0
    os.waitpid(between, 0)
    pid = int.from_bytes(os.read(told, 8), "little")
    for descriptor in (alive, living, told, telling):
        os.close(descriptor)
    return pid


def become(request: Mapping[str, Any], streams: list[int]) -> list[str]:
    """Take on the environment, folder and streams that were asked for; the words."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", closefd=False, errors="backslashreplace", buffering=1
    )
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["umask"] >= 0:
        os.umask(request["umask"])
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    sys.path[0] = request["folder"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return list(request["words"])


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    settle_waiting()
    settle_pool()
    hush_libraries()
    gc.disable()  # nothing that is imported is garbage
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
    known = Path(tempfile.gettempdir(), f"batchgen-tests-{session}-{sys.argv[2]}")
    import_all(sys.argv[2], known)
    gc.enable()
    gc.collect()
    gc.freeze()
    words = serve(connection)
    if words is None:
        known.unlink(missing_ok=True)
        os._exit(0)
    if words[:1] == ["-c"]:
        sys.argv[:] = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
        sys.exit(0)
    sys.argv[:] = ["batchgen", *words]
    sys.exit(command())


if __name__ == "__main__":
    main()
