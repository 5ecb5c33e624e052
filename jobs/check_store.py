"""S3 against the disk, on this machine: moto's server, real processes of batchgen.

    python jobs/check_store.py speed --rows 200000      rows/s, peak memory and requests of both
    python jobs/check_store.py kills --kills 100        kill -9 and store faults until it is done

Needs `pip install 'batchgen-llm[test]'`. Server and job share the machine's cores, and moto is the
slower of the two: a store elsewhere costs time on the way, and none of these cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from child_processes import batchgen
from s3_server import Fault, Proxy, s3_behind_proxy

from batchgen.job.stores.places import Place, place_of
from batchgen.job.verbs.compare import compare

_KINDS = ("busy", "reset", "lost", "slow", "stale")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "kills"])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_behind_proxy() as proxy:
        os.environ |= proxy.environment()
        source = write_input(Path(name) / "in.jsonl", given.rows)
        work = speed if given.what == "speed" else kills
        work(proxy, source, given)


def write_input(path: Path, rows: int) -> Path:
    with path.open("w") as file:
        for i in range(rows):
            prompt = f"row {i} asks for the {i % 97}th of many answers, and gets it"
            file.write(json.dumps({"id": f"row-{i}", "prompt": prompt}) + "\n")
    return path


def command(source: Place, out: Place, *more: str) -> list[str]:
    return batchgen("run", "-i", source, "-o", out, "--engine", "echo", *more)


def speed(proxy: Proxy, source: Path, given: argparse.Namespace) -> None:
    there = place_of("s3://bucket/in.jsonl")
    there.write_bytes(source.read_bytes())
    measured("disk", source, source.with_name("out.parquet"), given.rows)
    proxy.requests.clear()
    measured("s3", there, place_of("s3://bucket/out.parquet"), given.rows)
    print("requests:", json.dumps(dict(proxy.requests)))


def measured(name: str, source: Place, out: Place, rows: int) -> None:
    started = time.monotonic()
    done = subprocess.run(command(source, out), capture_output=True, text=True, check=True)
    seconds = time.monotonic() - started
    summary: dict[str, Any] = json.loads(done.stdout)
    peak = summary["peak_memory_bytes"] / 2**20
    print(
        f"{name}: {rows / seconds:,.0f} rows/s in {seconds:.1f} s, peak {peak:,.0f} MiB", flush=True
    )


def kills(proxy: Proxy, source: Path, given: argparse.Namespace) -> None:
    chosen = random.Random(given.seed)
    there, out = place_of("s3://bucket/in.jsonl"), place_of("s3://bucket/out.parquet")
    there.write_bytes(source.read_bytes())
    whole, copy = source.with_name("whole.parquet"), source.with_name("copy.parquet")
    subprocess.run(command(source, whole), check=True, capture_output=True)
    proxy.faults += [Fault(kind, lambda m, p: chosen.random() < 0.01, 1e9) for kind in _KINDS]
    killed = runs = 0
    while True:
        runs += 1
        code = battered(proxy, command(there, out, "--checkpoint-every", "200"), chosen,
                        last=killed >= given.kills)  # fmt: skip
        killed += code == -signal.SIGKILL
        if code == 0 and killed < given.kills:
            out = place_of(f"s3://bucket/out-{runs}.parquet")  # done too soon: another job
        elif code == 0:
            break
    proxy.faults.clear()
    copy.write_bytes(out.read_bytes())
    same = compare(whole, copy).same
    print(f"{killed} kills in {runs} runs; the last output equals the unbroken one: {same}")
    sys.exit(0 if same else 1)


def battered(proxy: Proxy, words: list[str], chosen: random.Random, last: bool) -> int:
    """One run, killed at random after it has committed something; its exit code."""
    slow = {"BATCHGEN_FAULT": "slow:at=engine.step,seconds=0.02,rows=16"}
    child = subprocess.Popen(words, env=os.environ | slow, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)  # fmt: skip
    if last:
        return child.wait()
    known, wanted = proxy.parts, chosen.randrange(3)
    while child.poll() is None and proxy.parts < known + wanted:
        time.sleep(0.01)
    time.sleep(chosen.uniform(0, 0.5))
    if child.poll() is None:
        child.kill()
    return child.wait()


if __name__ == "__main__":
    main()
