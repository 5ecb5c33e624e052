"""Starting a Python process of ours that is spoken to over a socket. Standard library only."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

__all__ = ["ended_by", "start_child"]


def start_child(module: str, env: Mapping[str, str]) -> tuple[Connection, subprocess.Popen[bytes]]:
    """Run `python -m module FD`; our end of the socket whose other end is FD."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # the command's own stdout is for its summary
            env=env,
        )
    return Connection(ours.detach()), process


def ended_by(code: int) -> str:
    """A process' return code in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
