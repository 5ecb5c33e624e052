"""Rows under one instruction, with the prefix cache and without it, taking turns in one run.

    python jobs/bench_prefix.py MODEL [--dtype float32] [--repeats 3]

64 rows begin with the same 500 tokens and have 20 of their own; each generates 32, greedy, EOS
ignored. Each round has an instruction of its own, so that nothing of it is cached before; loading
is left out, prompts are counted in. `rows_equal_to_first` must be all rows in float32.
"""

from __future__ import annotations

import argparse
from itertools import count

from bench_workload import make_engine, make_rows, run_rows, warm_up
from contenders import Contender, Measured, measure, report, take_turns

from batchgen.engine.request import Engine
from batchgen.report.workloads import WorkItem

ROWS, SHARED, OWN, GENERATED = 64, 500, 20, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder, a .gguf file or a hub id")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    path, cut = make_rows(args.model, [(SHARED, 1)] + [(OWN, GENERATED)] * ROWS)
    shared, *own = (list(row.prompt_token_ids) for row in cut)
    engines = {
        name: make_engine(path, args.dtype, ROWS, enable_prefix_caching=cached)
        for name, cached in (("no prefix cache", False), ("prefix cache", True))
    }
    for engine in engines.values():
        warm_up(engine, own)
    report(take_turns([contender(*one, shared, own) for one in engines.items()], args.repeats))


def contender(name: str, engine: Engine, shared: list[int], own: list[list[int]]) -> Contender:
    """Begins each round's instruction one token later in the same text."""
    rounds = count()

    def run() -> Measured:
        at = next(rounds)
        rows = [WorkItem(shared[at:] + shared[:at] + ids, GENERATED) for ids in own]
        return measure(lambda: run_rows(engine, rows))

    return Contender(name, run)


if __name__ == "__main__":
    main()
