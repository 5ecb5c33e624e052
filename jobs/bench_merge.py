"""Merge and `status` of a job of many shards, made of echo rows without running any.

    python jobs/bench_merge.py --rows 1000000 --shards 1000
    python jobs/bench_merge.py --tokens 16 --repeat 3

Prints one line of JSON: seconds of `status` and of the merge, each with the CPU's seconds beside
(on a machine that others use, those are the ones to look at), rows a second, peak memory. `--keep`
leaves the shards in a folder, for the next time. Every row draws its own words from one list of
20,000, the n-th of them 1/n as often as the first, and its own counts and times: all drawn from
seeds, the same in every run.
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
import tempfile
import time
from functools import cache
from itertools import accumulate
from pathlib import Path

from child_processes import batchgen

from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.ledger.ledger import Ledger
from batchgen.job.rows import OutputRow
from batchgen.job.shard import Shard
from batchgen.job.storage.layout import Layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=1_000)
    parser.add_argument("--tokens", type=int, default=64, help="words of prompt and completion")
    parser.add_argument("--repeat", type=int, default=1, help="the medians of so many merges")
    parser.add_argument("--keep", type=Path, help="an empty folder, or one used so before")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made, out = asked.keep or Path(name) / "made", Path(name) / "out.parquet"
        if not made.exists() or not any(made.iterdir()):
            for index in range(asked.shards):
                write_shard(made / out.name, Shard(index, asked.shards), asked)
        runs = [measured(made, out) for _ in range(asked.repeat)]
    shown = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    shown |= {"merge_rows_per_s": round(asked.rows / shown["merge_s"])}
    shown |= {name: getattr(asked, name) for name in ("rows", "shards", "tokens")}
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
    layout = Layout(Path(f"{out}.ckpt"), out, shard)
    with Ledger.open(layout, {}, run_id=f"run{shard.index}") as ledger:
        mine = range(shard.index, asked.rows, shard.count)
        ledger.append([row(index, asked.tokens, draw) for index in mine])
        ledger.flush()
        ledger.checkpoint_input(InputCheckpoint(asked.rows, "digest"))
        ledger.finalize(asked.rows)


@cache
def vocabulary() -> tuple[list[str], list[float]]:
    """Words of 2 to 9 letters, and how often one of the first n is drawn (not normed)."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(20_000)]
    return words, list(accumulate(1 / place for place in range(1, len(words) + 1)))


def row(index: int, tokens: int, draw: random.Random) -> OutputRow:
    words, weights = vocabulary()
    prompt, completion = (
        " ".join(draw.choices(words, cum_weights=weights, k=tokens)) for _ in range(2)
    )
    queued, prefill, decode = index * 1e-4 * draw.random(), draw.random() / 8, 2 * draw.random()
    began, took = 1_750_000_000_000_000 + index * 100, int(1e6 * (prefill + decode))
    return OutputRow(
        index=index, sample=0, id=f"row-{index}", status="ok", prompt=prompt,
        completion=completion, finish_reason=draw.choice(("stop", "stop", "length")),
        prompt_tokens=draw.randint(tokens, 2 * tokens), completion_tokens=tokens, cached_tokens=0,
        queue_s=queued, prefill_s=prefill, ttft_s=queued + prefill, decode_s=decode,
        tpot_s=decode / tokens, latency_s=prefill + decode, seed=draw.getrandbits(63),
        started_at=began, finished_at=began + took, run_id="run",
    )  # fmt: skip


def timed(*words: str) -> tuple[float, float, int]:
    """Seconds of a command, its start included, the CPU's of them, and the most memory of any
    command so far, in MB."""
    began, busy = time.monotonic(), os.times()
    subprocess.run(batchgen(*words), check=True, stdout=subprocess.DEVNULL)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    now = os.times()
    used = now.children_user + now.children_system - busy.children_user - busy.children_system
    return round(time.monotonic() - began, 2), round(used, 2), peak


if __name__ == "__main__":
    main()
