"""Merge and `status` of a job of many shards, made of echo rows without running any.

    python jobs/bench_merge.py --rows 1000000 --shards 1000

Prints one line of JSON: seconds of `status` and of the merge, each with the CPU's seconds beside
(on a machine that others use, those are the ones to look at), rows a second, peak memory. `--keep`
leaves the shards in a folder, for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batchgen.job.ledger.ledger import Ledger
from batchgen.job.rows import OutputRow
from batchgen.job.shard import Shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=1_000)
    parser.add_argument("--tokens", type=int, default=64, help="words of prompt and completion")
    parser.add_argument("--keep", type=Path, help="an empty folder, or one used so before")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made, out = asked.keep or Path(name) / "made", Path(name) / "out.parquet"
        if not made.exists():
            for index in range(asked.shards):
                write_shard(made / out.name, Shard(index, asked.shards), asked.rows, asked.tokens)
        shutil.copytree(made / f"{out.name}.ckpt", f"{out}.ckpt")
        size = sum(path.stat().st_size for path in Path(f"{out}.ckpt/parts").iterdir())
        status_s, status_cpu_s, _ = timed("status", str(out), "--json")
        merge_s, merge_cpu_s, peak = timed("merge", str(out))
        print(json.dumps({
            "rows": asked.rows, "shards": asked.shards, "part_bytes": size,
            "status_s": status_s, "status_cpu_s": status_cpu_s,
            "merge_s": merge_s, "merge_cpu_s": merge_cpu_s,
            "merge_rows_per_s": round(asked.rows / merge_s), "merge_peak_mb": peak,
            "out_bytes": out.stat().st_size, "cores": len(os.sched_getaffinity(0)),
        }))  # fmt: skip


def write_shard(out: Path, shard: Shard, rows: int, words: int) -> None:
    """What a finished run of this shard leaves."""
    text = " ".join(f"word{i}" for i in range(words))
    folder = Path(f"{out}.ckpt")
    with Ledger.open(folder, out, {}, run_id=f"run{shard.index}", shard=shard) as ledger:
        mine = range(shard.index, rows, shard.count)
        ledger.append([row(index, text) for index in mine])
        ledger.flush()
        ledger.checkpoint_input(rows, "digest", at_end=True)
        ledger.finalize(rows)


def row(index: int, text: str) -> OutputRow:
    return OutputRow(
        index=index, sample=0, id=f"row-{index}", status="ok", prompt=f"{index} {text}",
        completion=f"{text} {index}", finish_reason="stop", prompt_tokens=64,
        completion_tokens=64, cached_tokens=0, queue_s=index * 1e-6, prefill_s=0.01, ttft_s=0.01,
        decode_s=0.1, tpot_s=0.002, latency_s=0.11, seed=0, started_at=index, finished_at=index,
        run_id="run",
    )  # fmt: skip


def timed(*words: str) -> tuple[float, float, int]:
    """Seconds of a command, its start included, the CPU's of them, and the most memory of any
    command so far, in MB."""
    began, busy = time.monotonic(), os.times()
    subprocess.run(
        [sys.executable, "-m", "batchgen", *words], check=True, stdout=subprocess.DEVNULL
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    now = os.times()
    used = now.children_user + now.children_system - busy.children_user - busy.children_system
    return round(time.monotonic() - began, 2), round(used, 2), peak


if __name__ == "__main__":
    main()
