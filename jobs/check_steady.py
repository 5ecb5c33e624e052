"""Does --deterministic hold, and what does it cost? The same rows in many ways, by command.

    python jobs/check_steady.py MODEL [--device cuda] [--dtype bfloat16] [--rows 200]

Each way runs with the mode and without it: one sequence at a time, many, in another order, in small
chunks, without the prefix cache, killed (-9) and resumed, and as three shards merged. Printed: the
share of rows whose tokens, and whose twenty best log-probabilities at each place, are bit for bit
the first way's; then output tokens/s with the mode and without, in turns. Exit code 1 unless all
rows of the mode are equal.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

BATCHGEN = (sys.executable, "-m", "batchgen")
WAYS: dict[str, tuple[str, ...]] = {
    "many": (),
    "one at a time": ("--max-num-seqs", "1"),
    "sixteen": ("--max-num-seqs", "16"),
    "other order": ("--max-num-seqs", "64"),
    "small chunks": ("--max-num-batched-tokens", "64", "--max-num-seqs", "4"),
    "no prefix cache": ("--no-enable-prefix-caching",),
    "killed and resumed": (),
    "three shards": (),
}


def main() -> int:
    args = parse_args()
    broken = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_rows(folder, args.rows)
        for mode in (("--deterministic",), ()):
            found = {way: run_way(args, folder, rows, way, mode) for way in WAYS}
            first = found["many"]
            for way, answers in found.items():
                share = sum(answers.get(key) == first[key] for key in first) / len(first)
                print(
                    f"{mode or ('default',)} {way}: {100 * share:.2f}% of {len(first)} rows equal"
                )
                broken += bool(mode) and share < 1
        measure(args, folder, rows)
    return 1 if broken else 0


def parse_args() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def write_rows(folder: Path, count: int) -> Path:
    """Rows of many lengths, half of which begin alike; and the same in another order."""
    head = "You answer questions about a small town by the sea and its people. " * 6
    topics = ("harbour", "mayor's speech", "old library", "night train", "fish market")
    lines = []
    for number in range(count):
        text = f"Question {number}: what is there to say about the {topics[number % 5]}? "
        prompt = head * (number % 2) + text * (1 + number % 9)
        lines.append(json.dumps({"id": str(number), "prompt": prompt}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "other.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    return folder / "rows.jsonl"


def command(args: Any, rows: Path, out: Path, *more: str) -> list[str]:
    given = ("--model", args.model, "--device", args.device, "--dtype", args.dtype, "--quiet")
    wanted = ("--max-tokens", str(args.max_tokens), "--ignore-eos", "--save-token-ids", "--no-fold")
    return [*BATCHGEN, "run", "--in", str(rows), "--out", str(out), *given, *wanted, *more]


def run_way(
    args: Any, folder: Path, rows: Path, way: str, mode: tuple[str, ...]
) -> dict[str, tuple[Any, ...]]:
    out = folder / f"{way.replace(' ', '-')}{len(mode)}.parquet"
    rows = folder / "other.jsonl" if way == "other order" else rows
    more = ("--top-logprobs", "20", *mode, *WAYS[way])
    if way == "three shards":
        for shard in range(3):
            call(command(args, rows, out, *more, "--shard", f"{shard}/3"))
        call([*BATCHGEN, "merge", str(out)])
    elif way == "killed and resumed":
        kill_midway(command(args, rows, out, *more, "--checkpoint-every", "5"), out)
        call(command(args, rows, out, *more, "--checkpoint-every", "5"))
    else:
        call(command(args, rows, out, *more))
    columns = ("id", "token_ids", "top_logprobs")
    table = pq.read_table(out, columns=list(columns)).to_pylist()
    return {row["id"]: (row["token_ids"], row["top_logprobs"]) for row in table}


def call(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\nended with {done.returncode}: {done.stderr[-2000:]}")


def kill_midway(words: list[str], out: Path) -> None:
    """Kill -9 once a first part is on disk."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = out.with_name(f"{out.name}.ckpt") / "parts"
    while process.poll() is None and not any(parts.glob("*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


def measure(args: Any, folder: Path, rows: Path) -> None:
    """Output tokens/s, with the mode and without it in turns; medians."""
    speeds: dict[str, list[float]] = {"default": [], "--deterministic": []}
    for turn in range(args.repeats):
        for mode, found in speeds.items():
            out, summary = folder / f"speed{turn}{mode}.parquet", folder / "summary.json"
            more = ("--deterministic",) if mode != "default" else ()
            call(command(args, rows, out, *more, "--summary", str(summary)))
            told = json.loads(summary.read_text())
            found.append(float(told["output_tokens_per_s"]))
    if not args.repeats:
        return
    default, held = (statistics.median(found) for found in speeds.values())
    print(f"output tokens/s: {default:.0f} by default, {held:.0f} with the mode: ", end="")
    print(f"it costs {100 * (1 - held / default):.1f}%")


if __name__ == "__main__":
    sys.exit(main())
