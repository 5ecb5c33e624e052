"""One model over several GPUs: the tokens of one GPU, at what rate, and what a killed rank costs.

    python jobs/check_tensor_parallel.py MODEL [--size 2] [--rows 200] [--device cuda]

Runs the same job on one device, over `--size` of them with graphs and without (--enforce-eager),
and once more with a rank killed in the middle, continued by the same command. In float32 every
output must be the same; in bfloat16 (--dtype bfloat16) sums round otherwise, and the share of equal
rows is told. Exit code 1 where a promise is not kept.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from child_processes import WORDS, batchgen, equal_share, parser_of, run_and_kill, summary_of


def main() -> int:
    args = parse_args()
    check = Check(args)
    one, kept = check.run("one"), True
    over = {
        "graphs": ["--tensor-parallel", str(args.size)],
        "eager": ["--tensor-parallel", str(args.size), "--enforce-eager"],
    }
    for name, flags in over.items():
        summary = check.run(name, *flags)
        rate = summary["output_tokens_per_s"] / one["output_tokens_per_s"]
        print(f"{name}: {summary['device']}, {summary['output_tokens_per_s']:.0f} tokens/s, "
              f"{rate:.2f} of one device's, loaded in {summary['load_s']:.0f} s, captured in "
              f"{summary['capture_s']:.1f} s, peak {summary['peak_memory_bytes'] / 2**30:.1f} GiB "
              f"of {one['peak_memory_bytes'] / 2**30:.1f}", flush=True)  # fmt: skip
        kept = check.tell_share(name) and kept
    code, said = check.run_and_kill("killed", *over["graphs"])
    print(f"a rank killed: exit code {code}, {said}", flush=True)
    resumed = check.run("killed", *over["graphs"])
    print(f"the same command again: {resumed['reused']} rows kept, {resumed['computed']} computed")
    kept = check.tell_share("killed") and kept
    return 0 if kept and code == 1 and resumed["reused"] > 0 else 1


class Check:
    """One input and model; each run has a name."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._folder = Path(tempfile.mkdtemp(prefix="batchgen-tp-"))
        draws = random.Random(0)
        head = " ".join(draws.choices(WORDS, k=100))
        with (self._folder / "rows.jsonl").open("w") as file:
            for number in range(args.rows):
                text = " ".join(draws.choices(WORDS, k=draws.randint(4, 300)))
                row = {"prompt": f"{head} {text}" if number % 2 else text}
                file.write(json.dumps(row | {"max_tokens": draws.randint(16, 200)}) + "\n")

    def run(self, name: str, *flags: str) -> dict[str, Any]:
        """The summary of a whole run."""
        return summary_of(self._command(name, *flags))

    def run_and_kill(self, name: str, *flags: str) -> tuple[int, str]:
        """Exit code and last words of a run that loses a rank once rows are finished."""
        return run_and_kill(self._command(name, *flags), self._output(name), "processes.rank")

    def tell_share(self, name: str) -> bool:
        """Print how many rows a run has as the one on one device; whether that is as promised."""
        share = equal_share(self._output("one"), self._output(name))
        print(f"{name}: {share:.1%} of rows equal to one device's", flush=True)
        return share == 1 or bool(self._args.dtype != "float32")

    def _output(self, name: str) -> Path:
        return self._folder / f"{name}.parquet"

    def _command(self, name: str, *flags: str) -> list[str]:
        args = self._args
        return batchgen(
            "run", "--in", self._folder / "rows.jsonl", "--out", self._output(name), "--model",
            args.model, "--device", args.device, "--dtype", args.dtype, "--progress", "none",
            "--checkpoint-every", "20", *flags,
        )  # fmt: skip


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__, size=2, rows=200, device="cuda", dtype="float32")
    parser.add_argument("model", metavar="MODEL")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
