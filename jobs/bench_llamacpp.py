r"""batchgen and llama.cpp on a CPU, on one GGUF file and the same rows, taking turns in one run.

    python -m venv PEER && PEER/bin/pip install xllamacpp
    python jobs/bench_llamacpp.py MODEL.gguf --peer PEER/bin/python [--slots 1] [--repeats 3] \
        [--engine dtype=float32 --engine dtype=bfloat16,quantization=int8] [--neighbour 0.1]

With 64 slots: 64 rows of fixed lengths (see bench_workload.py), all asked for at once. With one: a
prompt of 64 tokens, 128 more. Greedy, EOS ignored, a short warm-up, loading left out, prompts
counted in. `--engine`: settings of batchgen's EngineConfig, a contender for each. llama.cpp runs
in a process of its own, as its server does, with a thread a core (see peer_llamacpp.py).
`--neighbour`: each runs a second time beside a process that takes so much of a core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench_workload import engine_of, make_contender, make_rows
from contenders import Contender, ask_peer, report, take_turns

from batchgen.report.workloads import WorkItem, mixed_lengths

PEER = Path(__file__).parent / "peer_llamacpp.py"
ONE_ROW = [(64, 128)]
ENGINES = ["dtype=float32", "dtype=bfloat16", "dtype=float32,quantization=int8"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .gguf file")
    parser.add_argument("--peer", required=True, help="a Python that has xllamacpp; empty: none")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--engine", action="append", metavar="NAME=VALUE,...", dest="engines")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--neighbour", type=float, default=0.0, metavar="CORES")
    args = parser.parse_args()
    path, rows = make_rows(args.model, mixed_lengths() if args.slots > 1 else ONE_ROW)
    chosen = [*peers(args, path, rows), *engines(args, path, rows)]
    report(take_turns(chosen, args.repeats, args.neighbour))


def peers(args: argparse.Namespace, path: Path, rows: list[WorkItem]) -> Iterator[Contender]:
    """llama.cpp, where there is one."""
    if args.peer:
        command = [args.peer, PEER, "run", path, str(args.slots)]
        given = [(list(row.prompt_token_ids), row.max_tokens) for row in rows]
        yield Contender("llama.cpp", partial(ask_peer, command, given))


def engines(args: argparse.Namespace, path: Path, rows: list[WorkItem]) -> Iterator[Contender]:
    """batchgen, once for each choice of settings; each is loaded and warmed up here."""
    for text in args.engines or ENGINES:
        yield make_contender(f"batchgen {text}", engine_of(path, text, args.slots), rows)


if __name__ == "__main__":
    main()
