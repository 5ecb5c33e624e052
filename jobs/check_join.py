"""Five processes share one output by --join over many echo rows, and come and go: some end by
kill -9, some politely by SIGTERM, and another starts for each.

    python jobs/check_join.py --rows 200000 --kills 30             on the local disk
    python jobs/check_join.py --rows 200000 --kills 12 --store     from and to S3 (moto's server)

Fails unless the output equals one process's, each row once. `--store` needs
`pip install 'batchgen-llm[test]'`, keeps the work beside the output, in the store, too, and waits
for the leases of the killed, 60 s: a store does not tell whether their process lives.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from child_processes import SAME, batchgen

from batchgen.job.stores.places import Place, place_of

PROCESSES, POLITE = 5, 75


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=30, help="endings, each third a polite one")
    parser.add_argument("--pieces", type=int, default=20)
    parser.add_argument("--store", action="store_true", help="on an S3 server of its own")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with ExitStack() as open_ones:
        folder = Path(open_ones.enter_context(tempfile.TemporaryDirectory()))
        proxy = open_ones.enter_context(served()) if asked.store else None
        there = place_of("s3://bucket") if asked.store else folder
        (there / "in.jsonl").write_bytes(lines(asked.rows))
        whole = folder / "whole.parquet"
        assert run(there / "in.jsonl", whole).wait() == 0
        began = time.monotonic()
        ended = disturbed(there, asked)
        seconds = time.monotonic() - began
        one, other = table_of(whole), table_of(there / "out.parquet")
        assert one.equals(other), "the outputs differ"
        assert len(one["index"].unique()) == len(one) == asked.rows
        print(f"{asked.rows:,} rows, {PROCESSES} processes, {ended[signal.SIGKILL]} killed and "
              f"{ended[signal.SIGTERM]} ended politely, {sum(ended.values())} started late: equal, "
              f"each row once, {seconds:.0f} s")  # fmt: skip
        if proxy is not None:
            print("requests:", json.dumps(dict(proxy.requests)))


def served() -> Any:
    """An S3 server with an empty bucket, in the environment of all that is started."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from s3_server import s3_behind_proxy

    return in_environment(s3_behind_proxy())


@contextmanager
def in_environment(server: Any) -> Iterator[Any]:
    with server as proxy:
        os.environ |= proxy.environment()
        yield proxy


def lines(rows: int) -> bytes:
    row = '{"id": "r%d", "prompt": "prompt number %d"}\n'
    return "".join(row % (i, i) for i in range(rows)).encode()


def table_of(out: Place) -> pa.Table:
    return pq.read_table(io.BytesIO(out.read_bytes()), columns=SAME)


def run(source: Place, out: Place, *flags: str) -> subprocess.Popen[bytes]:
    command = batchgen("run", "--in", source, "--out", out, "--engine", "echo", "-q", *flags)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def disturbed(there: Place, asked: argparse.Namespace) -> dict[signal.Signals, int]:
    """End one of five now and then and start another, until one ends by itself; how many ended
    by which signal."""
    draw, struck = random.Random(asked.seed), {signal.SIGKILL: 0, signal.SIGTERM: 0}
    flags = ("--join", "--join-pieces", str(asked.pieces), "--checkpoint-every", "500")
    names = there / "in.jsonl", there / "out.parquet"
    working = [run(*names, *flags) for _ in range(PROCESSES)]
    while not any(process.poll() == 0 for process in working):
        time.sleep(draw.uniform(1.0, 8.0) if asked.store else draw.uniform(0.2, 1.5))
        alive = [process for process in working if process.poll() is None]
        count = sum(struck.values())
        if count < asked.kills and alive:
            how = signal.SIGTERM if count % 3 == 2 else signal.SIGKILL
            draw.choice(alive).send_signal(how)
            struck[how] += 1
            working.append(run(*names, *flags))
        elif not alive:
            raise SystemExit("every process ended, and none completed the output")
    for process in working:
        code = process.wait()
        assert code in (0, POLITE, -signal.SIGKILL, -signal.SIGTERM), code
    return struck


if __name__ == "__main__":
    main()
