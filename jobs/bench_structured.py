"""What rows with a grammar cost: every second row under one, against the same rows plain.

    python jobs/bench_structured.py MODEL.gguf [--rows 48] [--tokens 48] [--rounds 5] [--profile]

Both runs go in turns, either one first, on one engine (CPU, float32), so that others hit both;
each decodes the same number of tokens. Printed: the median seconds of a decode step, plain and
half, and how much more the half takes by the median over the rounds of their ratio; the same of the
process's CPU time, over all its threads. `--profile` adds where the host's time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from bench_kinds import SCHEMA

from batchgen.engine.config import EngineConfig
from batchgen.engine.grammar.compiler import GrammarCompiler
from batchgen.engine.request import Engine, GrammarKind, Request, SamplingParams, StructuredOutput
from batchgen.engine.run.factory import load_engine
from batchgen.job.model.files import resolve_model
from batchgen.job.text.tokenizer import load_codec

PROMPTS = Path(__file__).parent.parent / "sample_data" / "prompts.jsonl"
GRAMMARS = {
    "regex": StructuredOutput(GrammarKind.REGEX, r"([A-Z][a-z]+ ([a-z]+ ){3,12}[0-9]{1,3}\. ){60}"),
    "json": StructuredOutput(GrammarKind.JSON_SCHEMA, SCHEMA, whitespace=""),
}
"""None of them can end within a run, so that both kinds of rows decode as many tokens."""


@dataclass(frozen=True)
class Spent:
    """Of one decode step, in seconds: the clock's, and the CPU's over all threads."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Bench:
    """One engine and the prompts that it decodes."""

    engine: Engine
    prompts: Sequence[list[int]]
    params: SamplingParams
    constraint: Callable[[], Any]
    ids: count[int]

    def run(self, share: int) -> Spent:
        """Decode all rows, of which every `share`-th has the grammar (0: none)."""
        for number, prompt in enumerate(self.prompts):
            ruled = self.constraint if share and number % share == 0 else None
            self.engine.add(Request(next(self.ids), prompt, self.params, constraint=ruled))
        self.engine.step()
        while self.engine.stats().num_waiting:
            self.engine.step()  # prompts are not what is measured
        before, steps = _now(), self.engine.stats().num_steps
        while self.engine.num_unfinished:
            for done in self.engine.step():
                assert len(done.token_ids) == self.params.max_tokens, done.error_message
        steps = self.engine.stats().num_steps - steps
        after = _now()
        return Spent((after.wall - before.wall) / steps, (after.cpu - before.cpu) / steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder, a .gguf file or a hub id")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--grammar", choices=sorted(GRAMMARS), default="regex")
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    bench = _bench(asked)
    bench.run(2)  # what is made once
    rounds = []
    for number in range(asked.rounds):
        first, second = (0, 2) if number % 2 else (2, 0)  # neither is always the later one
        spent = {first: bench.run(first), second: bench.run(second)}
        rounds.append((spent[0], spent[2]))
        print(f"round {number}: plain, half {rounds[-1]}", file=sys.stderr, flush=True)
    for name in ("wall", "cpu"):
        pairs = [(getattr(plain, name), getattr(half, name)) for plain, half in rounds]
        ratio = statistics.median(half / plain for plain, half in pairs)
        plain, half = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name}: plain {plain * 1e3:.1f} ms a step, half under a {asked.grammar} "
              f"{half * 1e3:.1f}; {(ratio - 1) * 100:+.1f}%")  # fmt: skip
    if asked.profile:
        profile = cProfile.Profile()
        profile.runcall(bench.run, 2)
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(25)
    return 0


def _bench(asked: argparse.Namespace) -> Bench:
    files = resolve_model(asked.model)
    codec = load_codec(files)
    config = EngineConfig(
        model=files.path,
        device="cpu",
        dtype="float32",
        max_num_seqs=asked.rows,
        max_model_len=1024,
        enable_prefix_caching=False,
        fold=False,
    )
    texts = [json.loads(line)["prompt"] for line in PROMPTS.read_text().splitlines()]
    encoded = [ids[:2] for ids in codec.encode_batch([text for text in texts if text])]
    prompts = [encoded[number % len(encoded)] for number in range(asked.rows)]
    grammars = GrammarCompiler(codec.vocabulary, codec.vocab_size, ())
    params = SamplingParams(max_tokens=asked.tokens, ignore_eos=True)
    constraint = grammars.constraint(GRAMMARS[asked.grammar], (), ignore_eos=True)
    return Bench(load_engine(config), prompts, params, constraint, count())


def _now() -> Spent:
    times = os.times()
    return Spent(time.perf_counter(), times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())
