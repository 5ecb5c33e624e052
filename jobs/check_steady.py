"""Does --deterministic hold, and what does it cost? The same rows in many ways, with and without.

    python jobs/check_steady.py qwen3-0.6b            # random weights of that shape, on a GPU
    python jobs/check_steady.py llama-3-8b --repeats 2 --no-commands
    python jobs/check_steady.py MODEL --device cpu --dtype bfloat16 --rows 24 --max-tokens 16
    python jobs/check_steady.py products              # attention and products by tile, in us

Of a shape, engines over one loaded model run the rows with 256, 16 and 1 at once, shuffled, in
small chunks, preempted and without the prefix cache. Printed is the share of rows whose tokens are
the first way's, and of those whose logits are too, bit for bit, at every place (digests of all
their bits). By command, of a folder or a .gguf file as well: in other batches, killed (-9) and
resumed, and as three shards merged; tokens and the twenty best log-probabilities count. At the end
output tokens/s with the mode and without. Exit code 1 unless all rows of the mode are equal.
"""

from __future__ import annotations

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
from child_processes import batchgen, parser_of, summary_of, wait_for_part
from gpu_bench import LLAMA_8B, QWEN_06B, save_random_model

SHAPES = {"qwen3-0.6b": QWEN_06B, "llama-3-8b": LLAMA_8B}
MODES = {"without": False, "with --deterministic": True}
COMMAND_WAYS: dict[str, tuple[str, ...]] = {
    "whole": (),
    "one at a time": ("--max-num-seqs", "1"),
    "shuffled": ("--max-num-seqs", "16"),
    "small chunks": ("--max-num-batched-tokens", "64", "--max-num-seqs", "4"),
    "no prefix cache": ("--no-enable-prefix-caching",),
    "killed and resumed": ("--checkpoint-every", "5", "--max-num-seqs", "8"),
    "three shards": (),
}
OF_SHAPES = ("whole", "killed and resumed", "three shards")
"""By command; the other ways an engine is asked for without a process each."""


def main() -> int:
    args = parse_args()
    if args.model == "products":
        from steady_products import time_attention, time_products

        time_attention()
        time_products(SHAPES)
        return 0
    with tempfile.TemporaryDirectory(prefix="batchgen-steady-") as name:
        folder = Path(name)
        if args.model not in SHAPES:
            ways = () if args.only_cost else tuple(COMMAND_WAYS)
            return by_command(args, folder, args.model, ways, args.repeats)
        (folder / "shape").mkdir()
        (folder / "shape" / "config.json").write_text(json.dumps(SHAPES[args.model]))
        broken = by_engine(args, folder / "shape")
        if args.commands and not args.only_cost:
            save_random_model(folder / "shape", SHAPES[args.model])
            broken += by_command(args, folder, str(folder / "shape"), OF_SHAPES, 0)
        return min(broken, 1)


def by_engine(args: Any, model_folder: Path) -> int:
    """The WAYS of engines, then what the mode costs. Returns how many ways were unequal with it."""
    import steady_engines as engines

    from batchgen.engine.config import EngineConfig

    rates, broken = {}, 0
    for mode, deterministic in MODES.items():
        if args.mode_only and not deterministic:
            continue
        began = time.perf_counter()
        config = EngineConfig(
            model_folder, device=args.device, dtype=args.dtype, load_format="dummy",
            deterministic=deterministic, eos_token_ids=(),
        )  # fmt: skip
        with engines.served(config) as model:
            print(f"{mode}: loaded in {time.perf_counter() - began:.0f} s", flush=True)
            rows = engines.some_rows(args.rows, SHAPES[args.model]["vocab_size"])  # type: ignore[arg-type]
            first: Any = None
            for way in () if args.only_cost else engines.WAYS:
                some = rows[: args.alone] if way.startswith("1 ") else rows
                found = engines.answers_of(model, config, some, way, args.max_tokens)
                first = first or found
                more = f", {found.preemptions} preemptions"
                equal = tell(f"{mode}, {way}", found.answers, first.answers, more)
                if deterministic and equal < 1:
                    print(engines.differences(found, first, some), flush=True)
                shown = found.preemptions > 0 or way != "preempted"
                broken += deterministic and not (equal == 1 and shown)
            rates[mode] = engines.rates_of(model, config, args.workloads, args.repeats)
            print(f"{mode}: output tokens/s {rates[mode]}", flush=True)
            if args.kernels:
                print(engines.kernels_of(model, config))
    for name in args.workloads if len(rates) == len(MODES) else ():
        tell_cost(name, *(rates[mode][name] for mode in MODES))
    return broken


def tell(way: str, found: dict[Any, Any], first: dict[Any, Any], more: str = "") -> float:
    """Print the shares of rows with the first way's tokens, and with all that it has."""
    tokens = sum(answer[0] == first[row][0] for row, answer in found.items()) / len(found)
    share = sum(answer == first[row] for row, answer in found.items()) / len(found)
    print(f"{way}: of {len(found)} rows {100 * tokens:.1f}% have equal tokens, "
          f"{100 * share:.1f}% equal bits{more}", flush=True)  # fmt: skip
    return share


def tell_cost(name: str, default: list[float], held: list[float]) -> None:
    """Print rates, and the mode's cost by the medians and by the best."""
    if held and default:
        costs = [1 - of(held) / of(default) for of in (statistics.median, max)]
        print(f"{name}: output tokens/s {held} with --deterministic, {default} without: it costs "
              f"{100 * costs[0]:.1f}% by medians, {100 * costs[1]:.1f}% by the best")  # fmt: skip


def by_command(args: Any, folder: Path, model: str, ways: tuple[str, ...], repeats: int) -> int:
    """COMMAND_WAYS, then what the mode costs. Returns how many ways were unequal with it."""
    command, broken = Commands(args, folder, model), 0
    for mode, deterministic in MODES.items():
        first: Any = None
        for way in ways if deterministic or not (args.held_only or args.mode_only) else ():
            found = command.answers(way, deterministic)
            first = first or found
            share = tell(f"{mode}, by command, {way}", found, first)
            broken += deterministic and share < 1
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    for turn in range(repeats):
        for mode, deterministic in MODES.items():
            rates[mode].append(command.rate(f"speed{turn}", deterministic))
    tell_cost("these rows", *rates.values())
    return min(broken, 1)


class Commands:
    """Runs of one model over the same rows, each a process."""

    def __init__(self, args: Any, folder: Path, model: str) -> None:
        self._args, self._folder, self._model = args, folder, model
        lines = [json.dumps(row) for row in prompts(args.rows)]
        (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "shuffled.jsonl").write_text("\n".join(reversed(lines)) + "\n")

    def answers(self, way: str, deterministic: bool) -> dict[str, Any]:
        """Row -> its tokens, and the log-probabilities of the most likely at each place."""
        out, more = self._out(way, deterministic), COMMAND_WAYS[way]
        rows = "shuffled" if way == "shuffled" else "rows"
        words = self._words(out, rows, deterministic, "--top-logprobs", "20", *more)
        if way == "three shards":
            for shard in range(3):
                call([*words, "--shard", f"{shard}/3"])
            call(batchgen("merge", out))
        else:
            if way == "killed and resumed":
                kill_midway(words, out)
            call(words)
        table = pq.read_table(out, columns=["id", "token_ids", "top_logprobs"]).to_pylist()
        return {row["id"]: (row["token_ids"], row["top_logprobs"]) for row in table}

    def rate(self, name: str, deterministic: bool) -> float:
        """Output tokens/s of one run."""
        out = self._out(name, deterministic)
        return float(summary_of(self._words(out, "rows", deterministic))["output_tokens_per_s"])

    def _out(self, name: str, deterministic: bool) -> Path:
        return self._folder / f"{name.replace(' ', '-')}-{int(deterministic)}.parquet"

    def _words(self, out: Path, rows: str, deterministic: bool, *more: str) -> list[str]:
        args = self._args
        mode = ("--deterministic",) if deterministic else ()
        return batchgen(
            "run", "--in", self._folder / f"{rows}.jsonl", "--out", out, "--model", self._model,
            "--device", args.device, "--dtype", args.dtype, "--progress", "none", "--max-tokens",
            args.max_tokens, "--ignore-eos", "--save-token-ids", "--no-fold", *mode, *more,
        )  # fmt: skip


def prompts(count: int) -> list[dict[str, str]]:
    """Rows of many lengths, half of which begin alike."""
    head = "You answer questions about a small town by the sea and its people. " * 6
    topics = ("harbour", "mayor's speech", "old library", "night train", "fish market")
    rows = []
    for number in range(count):
        text = f"Question {number}: what is there to say about the {topics[number % 5]}? "
        rows.append({"id": str(number), "prompt": head * (number % 2) + text * (1 + number % 9)})
    return rows


def call(words: list[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\nended with {done.returncode}: {done.stderr[-2000:]}")


def kill_midway(words: list[str], out: Path) -> None:
    """Kill -9 once a first part is on disk."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_part(process, out)
    if process.poll() is not None:
        raise SystemExit("a run ended before it could be killed: take more rows")
    process.send_signal(signal.SIGKILL)
    process.wait()


def parse_args() -> Any:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("model", help=f"{', '.join(SHAPES)}, a folder, a .gguf file, or products")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--alone", type=int, default=16, help="rows of the way with 1 at once")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workloads", nargs="*", default=["nano", "sharegpt"])
    parser.add_argument("--no-commands", dest="commands", action="store_false")
    parser.add_argument("--only-cost", action="store_true", help="no ways, rates alone")
    parser.add_argument("--kernels", action="store_true", help="where a decode step's time goes")
    parser.add_argument("--held-only", action="store_true", help="by command, the mode alone")
    parser.add_argument("--mode-only", action="store_true", help="the mode alone, everywhere")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
