"""Merge and `status` of a job of many shards, made of echo rows without running any.

    python jobs/bench_merge.py --rows 1000000 --shards 1000
    python jobs/bench_merge.py --tokens 16 --varied --repeat 3

Prints one line of JSON: seconds of `status` and of the merge, each with the CPU's seconds beside
(on a machine that others use, those are the ones to look at), rows a second, peak memory. `--keep`
leaves the shards in a folder, for the next time. All rows have the same words, which pack 100 times
smaller; with `--varied` each draws its own from a list of 5,000, and packs 3 times smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
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
    parser.add_argument("--varied", action="store_true", help="words drawn for each row")
    parser.add_argument("--repeat", type=int, default=1, help="the medians of so many merges")
    parser.add_argument("--keep", type=Path, help="an empty folder, or one used so before")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made, out = asked.keep or Path(name) / "made", Path(name) / "out.parquet"
        if not made.exists():
            for index in range(asked.shards):
                write_shard(made / out.name, Shard(index, asked.shards), asked)
        runs = [measured(made, out) for _ in range(asked.repeat)]
    shown = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    shown |= {"merge_rows_per_s": round(asked.rows / shown["merge_s"])}
    shown |= {name: getattr(asked, name) for name in ("rows", "shards", "tokens", "varied")}
    print(json.dumps(shown | {"cores": len(os.sched_getaffinity(0))}))


def measured(made: Path, out: Path) -> dict[str, float]:
    """Of `status`, then a merge, over a fresh copy of the shards."""
    for old in (out, Path(f"{out}.ckpt")):
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    shutil.copytree(made / f"{out.name}.ckpt", f"{out}.ckpt")
    size = sum(path.stat().st_size for path in Path(f"{out}.ckpt/parts").iterdir())
    status_s, status_cpu_s, _ = timed("status", str(out), "--json")
    merge_s, merge_cpu_s, peak = timed("merge", str(out))
    return {
        "part_bytes": size, "out_bytes": out.stat().st_size, "status_s": status_s,
        "status_cpu_s": status_cpu_s, "merge_s": merge_s, "merge_cpu_s": merge_cpu_s,
        "merge_peak_mb": peak,
    }  # fmt: skip


def write_shard(out: Path, shard: Shard, asked: argparse.Namespace) -> None:
    """What a finished run of this shard leaves."""
    draw = random.Random(shard.index)
    same = [f"word{i}" for i in range(asked.tokens)]
    words = ["".join(draw.choices("etaoinshrdlu", k=5)) for _ in range(5_000)]
    folder = Path(f"{out}.ckpt")
    with Ledger.open(folder, out, {}, run_id=f"run{shard.index}", shard=shard) as ledger:
        mine = range(shard.index, asked.rows, shard.count)
        drawn = (draw.choices(words, k=asked.tokens) if asked.varied else same for _ in mine)
        ledger.append([row(i, " ".join(text)) for i, text in zip(mine, drawn, strict=True)])
        ledger.flush()
        ledger.checkpoint_input(asked.rows, "digest", at_end=True)
        ledger.finalize(asked.rows)


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
