"""Rank 1 of one model after the other, for `test_tensor_parallel`: torch is imported once.

Reads (model folder, meeting place, EngineConfig) and then orders from its socket, None after each
model, and ends where the socket does.
"""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from multiprocessing.connection import Connection


def main(fd: int) -> None:
    warnings.simplefilter("ignore")
    connection = Connection(fd)
    import torch

    from batchgen.engine.parallel import group
    from batchgen.engine.parallel.followers import Start
    from batchgen.engine.run.tensor_parallel import follow

    group._TIMEOUT = timedelta(seconds=100)
    connection.send("ready")
    while True:
        try:
            start: Start = connection.recv()
            follow(start, connection.recv)
        except (EOFError, OSError):
            os._exit(0)
        group.leave_group()
        torch.set_num_threads(1)
