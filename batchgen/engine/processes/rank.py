"""The process of one rank of a model that several devices share (`python -m ... FD`).

It loads its part as the leader does, then runs the steps that the leader announces. It ends when it
is told to, and when the leader is gone, wherever it is then.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection

from batchgen.engine.parallel.followers import FollowerFailed, FollowerReady, Start
from batchgen.engine.processes.child import leave_signals_to_parent, listen, portable, speak_as

__all__ = ["main"]


def main(fd: int) -> None:
    """Follow until the leader closes or is gone."""
    leave_signals_to_parent()
    connection = Connection(fd)
    start: Start = connection.recv()
    speak_as(f"rank {start.rank}", start.log_level)
    inbox = listen(connection.recv)
    try:
        from batchgen.engine.run.tensor_parallel import follow  # torch: seconds, and it may fail

        connection.send(FollowerReady())
        follow(start, inbox.get)
    except Exception as error:
        connection.send(FollowerFailed(portable(error)))
        os._exit(1)  # within a collective, others wait for nothing
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
